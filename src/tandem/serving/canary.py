"""Which model answers what is asked of the application's own name, while a new one is being tried."""

from __future__ import annotations

import hashlib

from tandem.specs.rag import RagSpec


def routed(spec: RagSpec, model: str, conversation: str) -> str:
    """The model that answers: of what is asked of the application's own name the canary has its share.

    Nothing is remembered, so that every replica and every restart says the same. A larger share keeps the conversations
    of a smaller one.

    Args:
        spec: The application.
        model: The request's.
        conversation: What all requests of one conversation have in common.

    Returns:
        The canary's name, or `model`.
    """
    canary = spec.canary
    if canary is None or model != spec.name:
        return model
    # By its URI: the next one to be tried isn't tried on the same people.
    uri = next(each.uri for each in spec.adapters if each.name == canary.model)
    digest = hashlib.sha256(f"{uri}\0{conversation}".encode(errors="surrogatepass")).digest()
    return canary.model if int.from_bytes(digest[:8]) < canary.share * 2**64 else model
