"""What users write: a frozen pydantic model for each kind, every default stated in it."""

from __future__ import annotations

from tandem.specs.base import Spec
from tandem.specs.cluster import ClusterSpec
from tandem.specs.compare import CompareSpec
from tandem.specs.finetune import FinetuneSpec
from tandem.specs.index import IndexSpec
from tandem.specs.pipeline import PipelineSpec
from tandem.specs.promote import PromoteSpec
from tandem.specs.queue import ClusterQueueSpec, QueueSpec
from tandem.specs.rag import RagSpec

JobSpec = IndexSpec | FinetuneSpec | CompareSpec

KINDS: dict[str, type[Spec]] = {
    "index": IndexSpec,
    "finetune": FinetuneSpec,
    "compare": CompareSpec,
    "promote": PromoteSpec,
    "pipeline": PipelineSpec,
    "rag": RagSpec,
    "cluster": ClusterSpec,
}
RAY_KINDS = ("index", "finetune", "compare")  # of jobs that are Ray jobs; the server carries out the others
JOB_KINDS = (*RAY_KINDS, "promote", "pipeline")

__all__ = [
    "JOB_KINDS",
    "KINDS",
    "RAY_KINDS",
    "ClusterQueueSpec",
    "ClusterSpec",
    "CompareSpec",
    "FinetuneSpec",
    "IndexSpec",
    "JobSpec",
    "PipelineSpec",
    "PromoteSpec",
    "QueueSpec",
    "RagSpec",
    "Spec",
]
