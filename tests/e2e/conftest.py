"""A user's folder: a cluster file, tiny models, a small corpus with questions; and the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_models import write_embedder, write_llama

HARBOURS = {
    "aldmouth": ("14 metres", "1871", "grain"),
    "brenwick": ("9 metres", "1902", "slate"),
    "corran": ("22 metres", "1855", "copper ore"),
    "dunhaven": ("11 metres", "1926", "timber"),
    "eskerby": ("17 metres", "1889", "salt"),
    "fennport": ("6 metres", "1910", "peat"),
}


@dataclass(frozen=True)
class Home:
    """The folder in which `tandem` runs."""

    path: Path

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line in a process of its own."""
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("tandem")), *arguments],
            cwd=self.path,
            env={key: value for key, value in os.environ.items() if key not in ("TANDEM_STORAGE", "RAY_AUTH_MODE")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tandem(self, *arguments: str, status: int = 0, timeout: float = 600) -> str:
        """Run the command line; its standard output, after checking the exit status."""
        process = self.popen(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"tandem {' '.join(arguments)} took over {timeout} s\n{out[-4000:]}\n{err[-4000:]}")
        assert process.returncode == status, f"tandem {' '.join(arguments)}\n{out[-4000:]}\n{err[-4000:]}"
        return out if status == 0 else err

    def json(self, *arguments: str) -> object:
        """Run a command with `--json`."""
        return json.loads(self.tandem(*arguments, "--json"))

    def write(self, name: str, text: str) -> str:
        """Write a file, and return its name."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name


def _corpus(home: Home) -> None:
    rows = []
    for name, (depth, year, cargo) in HARBOURS.items():
        title = name.capitalize()
        home.write(
            f"docs/{name}.md",
            f"# {title}\n\n## Depth\n\nThe harbour of {title} has a depth of {depth} at low water.\n\n"
            f"## History\n\nIt was opened in {year}, and its main cargo is {cargo}.\n",
        )
        for question, answer in (
            (f"How deep is the harbour of {title}?", depth),
            (f"When was the harbour of {title} opened?", year),
            (f"What is the main cargo of {title}?", cargo),
        ):
            rows.append(
                {"id": f"{name}-{len(rows)}", "question": question, "answers": [answer], "source": f"{name}.md"}
            )
    home.write("qa.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    home.write("train.jsonl", "".join(json.dumps(row) + "\n" for row in rows[::2]))
    home.write("eval.jsonl", "".join(json.dumps(row) + "\n" for row in rows[1::2]))


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """A fresh folder; `tandem down` at the end, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder))
        write_llama(home.path / "model", heads=1)
        write_embedder(home.path / "embedder")
        _corpus(home)
        home.write("cluster.yaml", "kind: cluster\nports: {gcs: 0, dashboard: 0, server: 0, endpoint: 0}\ncpus: 4\n")
        home.write(
            "index.yaml",
            "kind: index\nname: harbours\nsources: [docs]\nchunk: {tokens: 48, overlap: 8}\n"
            "embedder: {model: embedder}\n",
        )
        home.write(
            "finetune.yaml",
            "kind: finetune\nname: harbours-raft\nmodel: model\ndata: {train: train.jsonl, eval: eval.jsonl}\n"
            "retrieval: {collection: harbours, passages: 2}\nworkers: 2\n"
            "schedule: {max_steps: 6, batch_size: 4, micro_batch_size: 2, max_length: 512}\n"
            "lora: {r: 4, alpha: 8}\ncheckpoint: {every_steps: 3}\n",
        )
        home.write(
            "compare.yaml",
            "kind: compare\nname: harbours-compare\nmodel: model\nraft_adapter: artifact:harbours-raft\n"
            "arms: [base, rag, raft, oracle]\neval: eval.jsonl\ncollection: harbours\nmax_tokens: 8\nbootstrap: 200\n"
            "engine: {name: transformers}\n",
        )
        yield home
        if (home.path / ".tandem" / "cluster.json").exists():
            home.tandem("down")
