"""Texts and labels: the arms are a language model that weighs labels, and a classifier that was trained on them."""

from __future__ import annotations

from tandem.evaluation.classification.answers import answer

__all__ = ["answer"]
