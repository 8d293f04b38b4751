"""How fast do documents get into an index: the job, the bare embedder, the pipelines of Haystack and LlamaIndex.

Every row of a file is a document that makes one chunk, so that all embed the same texts, with the same model, on all
cores. The bare embedder is the ceiling: it reads nothing and writes nothing, and computes in bf16 where the processor
does and the texts' neighbours stay, as the job decides it. Each runs in a process of its own. What counts is the same
for all, and stands in `ingestion_sides`: from the beginning of reading to the last vector stored. The others have no
start in it, so that their rates don't depend on how many documents there are, and they get fewer; the job has, and gets
what an index has. A shared machine's speed changes within minutes by more than what is asked: the ceiling is measured
just before the job and just after it, and ratios are those of a round.

`ingestion_memory` asks whether a process or the object store grows with the corpus, with a tiny random embedder as a
stand-in. Workers are watched under what they do at the time; `together` is all of Ray's and the driver's processes and
the object store at one moment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions
from benchmarks.texts import ROOT, pieces
from benchmarks.training_runs import ray_head

DOCUMENTS = {"bare": 8_000, "tandem": 40_000, "haystack": 1_000, "llama_index": 1_000}
WORDS, STEP = 48, 16  # of a piece, and from one to the next
ROUNDS = 2
ORDER = ("bare", "tandem", "bare", "haystack", "llama_index")
MEMORY_SIZES = (10_000, 100_000)
MEMORY_WORDS = (16, 7)  # of a piece, and from one to the next: there must be so many
SAMPLE_S = 0.25
MIB = 2**20
# Of a process's title, by what the table calls it.
WATCHED = {
    "driver": "benchmarks.ingestion_sides",
    "reading": "FlatMap(read)",
    "chunking": "MapBatches(Stage",
    "reading again": "staged_chunks",
    "embedding actor": "Embed",
    "writing actor": "Write",
    "store actor": "EdgeStore",
}
OBJECT_STORE, TOGETHER = "object store", "together"


def run() -> Result:
    """All contenders on files of one kind, in rounds."""
    embedder = _embedder()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        settings = {
            side: {"embedder": str(embedder)} | _documents(root / f"documents-{count}.jsonl", count, WORDS, step=STEP)
            for side, count in DOCUMENTS.items()
        }
        dtype = settings["bare"]["dtype"] = _fastest_dtype(settings["bare"])
        rounds: list[list[dict[str, float]]] = []
        for number in range(ROUNDS):
            rounds.append([])
            for place, side in enumerate(ORDER):
                rounds[-1].append(_run(side, root / f"{number}-{place}-{side}", settings[side]))
                print(f"{side}: {rounds[-1][-1]}", flush=True)
    return Result(
        "ingestion",
        "chunks per second from documents to a searchable collection",
        {"documents": str(DOCUMENTS), "words": WORDS, "rounds": ROUNDS, "ceiling": dtype},
        versions("ray", "torch", "sentence-transformers", "haystack-ai", "llama-index-core", "qdrant-edge-py"),
        _rows(rounds),
    )


def run_memory() -> Result:
    """The job at two sizes, watched; watching takes a fifth of a core, so nothing is timed."""
    embedder = _embedder()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        small = _one_layer(embedder, root / "one-layer")
        rows = [_memory(root / f"memory-{size}", size, small) for size in MEMORY_SIZES]
    return Result(
        "ingestion_memory",
        "peak memory of the index job's processes, MiB",
        {"embedder": "one layer of it, random weights"},
        versions("ray", "torch", "sentence-transformers", "qdrant-edge-py"),
        rows,
    )


def _embedder() -> Path:
    from tandem.artifacts.uris import resolve
    from tandem.config.cluster import storage_path
    from tandem.specs.index import EmbedderSpec

    return resolve(EmbedderSpec().model, storage=storage_path())


def _fastest_dtype(setting: dict[str, Any]) -> str:
    """The faster one of those that keep the neighbours of what is embedded."""
    from benchmarks.ingestion_sides import embedded_texts
    from tandem.retrieval.embedding import Embedder

    return Embedder(Path(setting["embedder"]), 32, "auto", samples=embedded_texts(setting)).dtype


def _rows(rounds: list[list[dict[str, float]]]) -> list[dict[str, Any]]:
    def of_rounds(side: str, key: str) -> list[float]:
        return [statistics.mean(one[key] for at, one in zip(ORDER, runs, strict=True) if at == side) for runs in rounds]

    def ratio(side: str, other: str) -> float:
        pairs = zip(of_rounds(side, "rate"), of_rounds(other, "rate"), strict=True)
        return statistics.median(one / another for one, another in pairs)

    return [
        {
            "contender": side,
            "chunks/s": statistics.median(of_rounds(side, "rate")),
            "÷ bare": ratio(side, "bare"),
            "tandem ÷ this": ratio("tandem", side),
            "whole, s": statistics.median(of_rounds(side, "seconds")),
        }
        for side in DOCUMENTS
    ]


def _memory(folder: Path, size: int, embedder: Path) -> dict[str, Any]:
    words, step = MEMORY_WORDS
    folder.mkdir()
    setting = {"embedder": str(embedder)}
    setting |= _documents(folder / "documents.jsonl", size, words, step=step)
    with _watched() as peaks:
        _run("tandem", folder / "run", setting)
    return {"chunks": size, **{name: peak / MIB for name, peak in peaks.items()}}


def _documents(path: Path, count: int, words: int, *, step: int | None = None) -> dict[str, Any]:
    """A file of rows, each a document that makes one chunk."""
    texts = pieces(count, words, step=step)
    path.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))
    return {"documents": str(path), "count": count}


def _run(side: str, folder: Path, setting: dict[str, Any]) -> dict[str, float]:
    """What it measured.

    Raises:
        SystemExit: It failed; with the end of its log.
    """
    folder.mkdir()
    if side == "tandem":
        with ray_head() as address:
            return _python(side, folder, setting | {"ray_address": address})
    return _python(side, folder, setting)


def _python(side: str, folder: Path, setting: dict[str, Any]) -> dict[str, float]:
    (folder / "setting.json").write_text(json.dumps(setting))
    log = folder / "log"
    command = [sys.executable, "-m", "benchmarks.ingestion_sides", side, str(folder)]
    quiet = {"HF_HUB_OFFLINE": "1", "HAYSTACK_TELEMETRY_ENABLED": "False", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as output:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, stdout=output, stderr=output, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{log.read_text()[-4000:]}")
    measured: dict[str, float] = json.loads((folder / f"{side}.json").read_text())
    return measured


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Peaks, in bytes: what each process of this one's family holds for itself (pages of files and of the object store
    don't count), the objects in the store, and all of it at one moment.
    """
    import psutil

    peaks = dict.fromkeys((*WATCHED, OBJECT_STORE, TOGETHER), 0.0)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLE_S):
            together = seen = _objects()
            peaks[OBJECT_STORE] = max(peaks[OBJECT_STORE], seen)
            for process in psutil.Process().children(recursive=True):
                try:
                    title = " ".join(process.cmdline())
                    own = _anonymous(process.pid)
                except (psutil.Error, OSError):
                    continue
                if "ray::" in title or WATCHED["driver"] in title:
                    together += own
                name = next((name for name, word in WATCHED.items() if word in title), None)
                if name is not None:
                    peaks[name] = max(peaks[name], own)
            peaks[TOGETHER] = max(peaks[TOGETHER], together)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _anonymous(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")] or ["RssAnon: 0 kB"]  # it has just ended
    return 1024 * float(line.split()[1])


def _objects() -> float:
    """Bytes in the object store of the cluster that this process started, if it did."""
    import ray

    if not ray.is_initialized():
        return 0.0
    name = "object_store_memory"
    return float(ray.cluster_resources().get(name, 0.0) - ray.available_resources().get(name, 0.0))


def _one_layer(embedder: Path, folder: Path) -> Path:
    """An embedder of the same shape that takes a sixth of the time: what it computes doesn't matter here."""
    from sentence_transformers import SentenceTransformer, models
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(embedder, num_hidden_layers=1)
    AutoModel.from_config(config).save_pretrained(folder / "inner")
    AutoTokenizer.from_pretrained(embedder).save_pretrained(folder / "inner")
    inner = models.Transformer(str(folder / "inner"))
    whole = SentenceTransformer(modules=[inner, models.Pooling(config.hidden_size), models.Normalize()])
    whole.save(str(folder / "model"))
    return folder / "model"
