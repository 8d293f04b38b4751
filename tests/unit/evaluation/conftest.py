"""A small world for comparisons: questions, a retriever and an engine that know by rule what they answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import write_manifest
from tandem.config.cluster import Cluster
from tandem.evaluation.figures.costs import Machine
from tandem.evaluation.job import Tools
from tandem.models.engines import Generation, GenerationRequest
from tandem.specs.compare import CompareSpec
from tandem.specs.search import SearchSpec


@dataclass(frozen=True)
class Hit:
    id: str
    source: str
    title: str
    section: str
    text: str
    start: int
    end: int
    score: float
    tenant: str | None = None


class FakeSearcher:
    """Finds the gold document of every question but each fifth, and two others."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any] | None] = []

    def search(
        self, questions: Sequence[str], how: SearchSpec, *, filter: dict[str, Any] | None = None
    ) -> list[list[Hit]]:
        self.calls.append(filter)
        return [self._hits(question, how.top_k, filter) for question in questions]

    def _hits(self, question: str, top_k: int, filter: dict[str, Any] | None) -> list[Hit]:
        number = int(question.split()[3].rstrip("?"))
        found = [number, number + 1000, number + 2000] if number % 5 or filter else [number + 1000, number + 2000]
        return [
            Hit(f"p{n}", f"doc{n}.txt", f"Doc {n}", "Top", f"The value of {n} is answer{n}.", 0, 20, 1.0 / (rank + 1))
            for rank, n in enumerate(found[:top_k])
        ]


class FakeEngine:
    """With a gold passage and an adapter: right. With a gold passage alone: right, but rambling. Else: wrong."""

    name = "fake"

    def __init__(
        self,
        adapters: Mapping[str, Path],
        crash: Callable[[GenerationRequest], Exception | None],
        works: Callable[[int], None] = lambda requests: None,
    ) -> None:
        self.adapters = adapters
        self.crash = crash
        self.works = works
        self.asked: list[str] = []
        self.closed = False

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        for request in requests:
            if error := self.crash(request):
                raise error
        self.works(len(requests))
        return [self._one(request) for request in requests]

    def _one(self, request: GenerationRequest) -> Generation:
        content = request.messages[-1]["content"]
        number = content.split("value of ")[-1].split("?")[0].split()[0]
        self.asked.append(f"{request.adapter}:{number}")
        known = f"is answer{number}." in content
        if request.adapter == "raft_adapter-2" and number == "3":
            text = "another seed's mistake"
        elif request.adapter and request.adapter.startswith("raft_adapter"):
            text = f"answer{number}" if known else "answer0"
        else:
            text = f"I think the value is answer{number}, isn't it" if known else "<script>alert(1)</script>"
        return Generation(text, len(content.split()), len(text.split()), "stop", 10.0)

    def close(self) -> None:
        self.closed = True


@dataclass
class World:
    """What a test of the job holds in hand."""

    root: Path
    searcher: FakeSearcher = field(default_factory=FakeSearcher)
    engines: list[FakeEngine] = field(default_factory=list)
    tracked: list[str] = field(default_factory=list)
    crash: Callable[[GenerationRequest], Exception | None] = lambda request: None
    now: float = 0.0
    seconds: float = 0.01  # that the engine takes for an answer

    def work(self, requests: int) -> None:
        self.now += self.seconds * requests

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def tools(self) -> Tools:
        def engine(spec: Any, model: Path, adapters: Mapping[str, Path]) -> FakeEngine:
            self.engines.append(FakeEngine(adapters, self.crash, self.work))
            return self.engines[-1]

        def track(report: Any, folder: Path, context: JobContext) -> str:
            self.tracked.append(report.id)
            return "run"

        return Tools(
            model=lambda uri, storage: self.root / "model",
            searcher=lambda cluster, collection, tenant: (self.searcher, {"snapshot": "s1"}),
            engine=engine,
            counter=lambda model: lambda messages: sum(len(turn["content"].split()) for turn in messages),
            machine=lambda: Machine(2.0, 0.0),
            track=track,
            clock=lambda: self.now,
        )

    @property
    def context(self) -> JobContext:
        folder = self.storage / "jobs" / "job-1"
        folder.mkdir(parents=True, exist_ok=True)
        cluster = Cluster(
            storage=self.storage,
            ray_address="",
            dashboard_url="",
            server_url="",
            endpoint_url="",
            database_url="",
            mlflow_uri=f"sqlite:///{self.storage / 'mlflow.db'}",
            api_key_file=self.storage / "api-key",
        )
        return JobContext("job-1", "small", folder, self.storage, cluster)

    def questions(self, count: int = 40, **extra: Any) -> Path:
        path = self.root / "eval.jsonl"
        rows = [
            {
                "id": f"q{n}",
                "question": f"The value of {n}?",
                "answers": [f"answer{n}"],
                "source": f"doc{n}.txt",
                "kind": "even" if n % 2 == 0 else "odd",
            }
            | extra
            for n in range(1, count + 1)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def adapter(self, name: str = "tuned", **meta: Any) -> str:
        folder = self.storage / "artifacts" / name / "job-0"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        write_manifest(folder, name=name, id="job-0", type="adapter", meta={"base_model": "model"} | meta)
        return f"artifact:{name}"

    def spec(self, **changes: Any) -> CompareSpec:
        values: dict[str, Any] = {
            "kind": "compare",
            "name": "small",
            "model": "model",
            "arms": ["base", "rag"],
            "collection": "docs",
            "bootstrap": 200,
        }
        if "eval" not in changes:
            values["eval"] = str(self.questions())
        return CompareSpec(**(values | changes))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
