"""What the workers train on: token ids with their loss masks, in flat arrays that every worker maps from files."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = ("input_ids", "loss_mask", "offsets")
IDS = "ids.jsonl"  # of the rows that the sequences come from, one JSON string a line


def read_ids(folder: Path) -> list[str]:
    """The row's id of each sequence in a folder of examples; empty where none were written."""
    path = folder / IDS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@dataclass(frozen=True)
class Examples:
    """Many sequences in three flat arrays, so that workers can map them from files.

    Args:
        input_ids: (tokens,) int32, all sequences one after another.
        loss_mask: (tokens,) bool, True where the token carries loss.
        offsets: (sequences + 1,) int64, where each begins and the last ends.
    """

    input_ids: np.ndarray[Any, Any]
    loss_mask: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]

    @classmethod
    def pack(cls, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> Examples:
        """From (input_ids, loss_mask) of each sequence.

        Raises:
            ValueError: A first token carries loss: in a packed row it would be predicted from its neighbour.
        """
        if any(mask[0] for _, mask in sequences):
            raise ValueError("the first token of a sequence carries loss, and nothing stands before it")
        lengths = [len(ids) for ids, _ in sequences]
        return cls(
            np.fromiter((i for ids, _ in sequences for i in ids), dtype=np.int32, count=sum(lengths)),
            np.fromiter((m for _, mask in sequences for m in mask), dtype=np.bool_, count=sum(lengths)),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        )

    def save(self, folder: str | Path) -> None:
        """Write a folder with one .npy file per array, without pickles."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(Path(folder) / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, folder: str | Path) -> Examples:
        """Map what `save` wrote: tokens are read from disk where they are used."""
        return cls(*(np.load(Path(folder) / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Tokens of each sequence, counted once: every step asks."""
        return array("q", np.diff(self.offsets).astype(np.int64).tobytes())

    def loss_tokens(self, indices: Sequence[int]) -> int:
        """Tokens that carry loss in these sequences."""
        return int(sum(self.loss_mask[self.offsets[i] : self.offsets[i + 1]].sum() for i in indices))

    def loss_weight(self, indices: Sequence[int]) -> float:
        """What the summed loss of these sequences is divided by: their tokens that carry loss."""
        return float(self.loss_tokens(indices))

    def collate(self, indices: Sequence[int], pad_id: int) -> tuple[Any, Any, Any]:
        """A micro-batch, padded on the right.

        Returns:
            input_ids (batch, seq) int64, attention_mask (batch, seq) int64, loss_mask (batch, seq) bool: torch tensors.
        """
        import torch

        longest = max(int(self.offsets[i + 1] - self.offsets[i]) for i in indices)
        ids = torch.full((len(indices), longest), pad_id, dtype=torch.int64)
        attention = torch.zeros((len(indices), longest), dtype=torch.int64)
        mask = torch.zeros((len(indices), longest), dtype=torch.bool)
        for row, i in enumerate(indices):
            begin, end = int(self.offsets[i]), int(self.offsets[i + 1])
            ids[row, : end - begin] = torch.from_numpy(self.input_ids[begin:end].astype(np.int64))
            attention[row, : end - begin] = 1
            mask[row, : end - begin] = torch.from_numpy(self.loss_mask[begin:end].copy())
        return ids, attention, mask


@dataclass(frozen=True)
class PackedExamples:
    """The same examples, each micro-batch one row of them without padding."""

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each sequence."""
        return self.examples.lengths

    def loss_weight(self, indices: Sequence[int]) -> float:
        """Tokens that carry loss in these sequences."""
        return self.examples.loss_weight(indices)

    def collate(self, indices: Sequence[int], pad_id: int = 0) -> tuple[Any, Any, Any, Any]:  # noqa: ARG002 - no padding
        """A micro-batch in one row, each sequence a document of its own.

        Returns:
            input_ids (1, tokens) int64; loss_mask (1, tokens) bool; position_ids (1, tokens) int64, which begin again
            with each document; bounds (documents + 1,) int32, where each begins and the last ends: torch tensors.
        """
        import torch

        offsets = self.examples.offsets
        lengths = [int(offsets[i + 1] - offsets[i]) for i in indices]
        tokens = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in indices])
        return (
            torch.from_numpy(self.examples.input_ids[tokens].astype(np.int64)).unsqueeze(0),
            torch.from_numpy(self.examples.loss_mask[tokens]).unsqueeze(0),
            torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
            torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        )
