"""Whose passages a job may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem.errors import InputError
from tandem.retrieval.retriever import Retriever, open_retriever

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster

ALL_TENANTS = "*"


def open_for_job(cluster: Cluster, collection: str, tenant: str | None) -> Retriever:
    """A retriever for a job, which no key restricts: its spec says whose passages it may use.

    Args:
        cluster: As for `open_retriever`, which raises more.
        collection: Its name.
        tenant: This one's passages and nobody's; ``*`` for all; None where the collection has no tenants.

    Raises:
        InputError: It has tenants and none is named, or it has none and one is.
    """
    retriever = open_retriever(cluster, collection)
    has_tenants = retriever.snapshot is not None and retriever.snapshot.tenant_field is not None
    if has_tenants and tenant is None:
        raise InputError(
            f"the passages of {collection!r} belong to tenants, and the spec doesn't say whose it may use",
            remedy="add `tenant: NAME`, or `tenant: '*'` if whoever gets the result may see them all",
        )
    if tenant is not None and not has_tenants:
        raise InputError(f"{collection!r} was indexed without tenants", remedy="leave `tenant` out")
    return retriever if tenant in (None, ALL_TENANTS) else retriever.restricted_to(tenant)
