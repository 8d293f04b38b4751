"""Rows encoded by Ray Data: the same batches, in the same order, as in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tiny_models import write_llama

from tandem.config.cluster import Cluster
from tandem.data.sources import list_data_files
from tandem.specs.base import PromptSpec
from tandem.training.data.encoding import Encode, Encoded
from tandem.training.data.streaming import stream


def test_the_cluster_gives_what_one_process_gives(ray_cluster: Cluster, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(write_llama(tmp_path / "model"))
    for shard in range(3):
        rows = [{"question": f"What is {n}?", "answers": ["fox " * (n % 7)]} for n in range(shard, 600, 3)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{shard}.jsonl").write_text(text + "{broken\n")
    files = list_data_files(f"{tmp_path}/*.jsonl")
    encode = Encode(tokenizer, PromptSpec(), 256)
    here, there = (
        [row for batch in stream(files, encode, None, cluster_bytes=limit) for row in batch] for limit in (10**9, 0)
    )
    assert len(here) == 603
    assert sum(row.unread is not None for row in here) == 3 + 86  # broken lines, and answers that are empty

    def plain(row: Encoded) -> tuple[object, ...]:
        return (row.file, row.line, row.id, row.rank, row.sha256, row.unread, row.unusable)

    assert [plain(row) for row in there] == [plain(row) for row in here]
    for one, other in zip(here, there, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.input_ids, other.input_ids, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(one.loss_masks, other.loss_masks, strict=True))
