"""What of a deploy a running application takes over without new replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tandem.serving.scaling import drain_options, ingress_options
from tandem.specs.adapters import ServedAdapters
from tandem.specs.rag import RagSpec

ENDPOINT = "tandem.serving.app:build"
INGRESS, RETRIEVER, LANGUAGE_MODEL = "Ingress", "Retriever", "LLM"


def in_place(
    current: Mapping[str, Any], application: Mapping[str, Any], largest_rank: Callable[[str, Sequence[str]], int]
) -> dict[str, Any]:
    """An application's config such that what can change while it runs changes so, without new replicas.

    Serve takes other `args` for other code and replaces every replica. Where a running application of ours differs
    from the wanted one only in what its ingress and its language model can take over, its `args` stay, and their
    `user_config` says the rest.

    Args:
        current: What Serve's GET returned.
        application: The wanted one, of a Serve config.
        largest_rank: Of the adapters at some URIs, over the base model at another; may refuse them.
    """
    wanted = dict(application)
    running = (current.get("applications") or {}).get(wanted["name"]) or {}
    before = running.get("deployed_app_config") or {}
    if running.get("status") != "RUNNING" or wanted.get("import_path") != ENDPOINT or wanted.get("deployments"):
        return wanted
    if any(before.get(key) != value for key, value in wanted.items() if key not in ("args", "deployments")):
        return wanted
    try:
        old, new = (RagSpec.model_validate(config.get("args")) for config in (before, wanted))
    except ValidationError:
        # Whatever is wrong with it, the application says when it is built.
        return wanted
    if new.needs_new_replicas(old) or (new == old and not before.get("deployments")):
        return wanted
    taking_over = _language_model(_served(running), old, new, largest_rank)
    if taking_over is None:
        return wanted
    # Serve fills a deployment's other options from what is there.
    deployments: dict[str, dict[str, Any]] = {
        INGRESS: {"user_config": new.user_config(), **ingress_options(new)},
        RETRIEVER: drain_options(new),
        LANGUAGE_MODEL: {**taking_over, **drain_options(new)},
    }
    return {
        **wanted,
        "args": before["args"],
        "deployments": [{"name": name, **options} for name, options in deployments.items()],
    }


def present_spec(config: Mapping[str, Any]) -> RagSpec | None:
    """What an application of ours answers with, its `args` and what it took over since; None where it is none of ours.

    Args:
        config: An application's, of Ray Serve.
    """
    if config.get("import_path") != ENDPOINT:
        return None
    overridden = {each["name"]: each.get("user_config") or {} for each in config.get("deployments") or []}
    try:
        return RagSpec.model_validate({**(config.get("args") or {}), **overridden.get(INGRESS, {})})
    except ValidationError:
        return None


def without_taken_over(config: Mapping[str, Any]) -> dict[str, Any]:
    """An application's config without what `in_place` had written into it; overrides of somebody's own stay."""
    ours = any(each["name"] == INGRESS and "user_config" in each for each in config.get("deployments") or [])
    return {key: value for key, value in config.items() if key != "deployments" or not ours}


def _language_model(
    served: ServedAdapters | None, old: RagSpec, new: RagSpec, largest_rank: Callable[[str, Sequence[str]], int]
) -> dict[str, Any] | None:
    """What the language model is told, if there is anything; None where it has no room for an adapter."""
    if served is None:
        return {} if new.adapters == old.adapters else None
    uris = {adapter.name: adapter.uri for adapter in new.adapters}
    added = [uri for name, uri in uris.items() if served.adapters.get(name) != uri]
    rank = largest_rank(new.model, added) if added else 0
    if served.max_rank is not None and rank > served.max_rank:
        return None
    # A replica that starts later must not fail for one adapter: those that run go on without it.
    taken_over = served.model_copy(update={"adapters": uris, "required": False})
    return {"user_config": taken_over.canonical()}


def _served(running: Mapping[str, Any]) -> ServedAdapters | None:
    """What the language model of a running application was told last; None where it can't be told anything."""
    llm = (running.get("deployments") or {}).get(LANGUAGE_MODEL) or {}
    config = (llm.get("deployment_config") or {}).get("user_config")
    try:
        return ServedAdapters.model_validate(config)
    except ValidationError:
        return None
