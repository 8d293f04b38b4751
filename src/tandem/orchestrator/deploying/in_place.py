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
# The options of each part that are said here; a file may have others.
OURS: Mapping[str, frozenset[str]] = {
    INGRESS: frozenset(
        {
            "user_config",
            "max_ongoing_requests",
            "max_queued_requests",
            "backpressure_config",
            "graceful_shutdown_timeout_s",
        }
    ),
    RETRIEVER: frozenset({"graceful_shutdown_timeout_s"}),
    LANGUAGE_MODEL: frozenset({"user_config", "graceful_shutdown_timeout_s"}),
}
# A version that couldn't be built has no replicas to spare.
ALIVE = ("RUNNING", "DEPLOYING", "UNHEALTHY")


def in_place(  # noqa: PLR0911 - a list of what stands in the way
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
    own = _by_name(without_taken_over(wanted))
    if running.get("status") not in ALIVE or not is_endpoint(wanted):
        return wanted
    if own != _by_name(wanted) or own != _by_name(without_taken_over(before)):
        return wanted
    if any(before.get(key) != value for key, value in wanted.items() if key not in ("args", "deployments")):
        return wanted
    try:
        old, new = (RagSpec.model_validate(config.get("args")) for config in (before, wanted))
    except ValidationError:
        # Whatever is wrong with it, the application says when it is built.
        return wanted
    if new.needs_new_replicas(old) or (new == old and own == _by_name(before)):
        return wanted
    taking_over = _language_model(_served(running), old, new, largest_rank)
    if taking_over is None:
        return wanted
    # Serve fills a deployment's other options from what is there.
    # What an ingress of an earlier version doesn't know it is told of only where it matters.
    ended: dict[str, Any] = {"canary": None} if old.canary and not new.canary else {}
    options: dict[str, dict[str, Any]] = {
        INGRESS: {"user_config": new.user_config() | ended, **ingress_options(new)},
        RETRIEVER: drain_options(new),
        LANGUAGE_MODEL: {**taking_over, **drain_options(new)},
    }
    names = dict.fromkeys((*options, *own))
    deployments = [{"name": name, **own.get(name, {}), **options.get(name, {})} for name in names]
    return {**wanted, "args": before["args"], "deployments": deployments}


def is_endpoint(config: Mapping[str, Any]) -> bool:
    """Whether an application is one of ours."""
    return config.get("import_path") == ENDPOINT


def present_spec(config: Mapping[str, Any]) -> RagSpec | None:
    """What an application of ours answers with, its `args` and what it took over since; None where it is none of ours.

    Args:
        config: An application's, of Ray Serve.
    """
    if not is_endpoint(config):
        return None
    overridden = {each["name"]: each.get("user_config") or {} for each in config.get("deployments") or []}
    try:
        return RagSpec.model_validate({**(config.get("args") or {}), **overridden.get(INGRESS, {})})
    except ValidationError:
        return None


def without_taken_over(config: Mapping[str, Any]) -> dict[str, Any]:
    """An application's config without what `in_place` writes into it; overrides of other options stay."""
    if not is_endpoint(config):
        return dict(config)
    left = [
        {key: value for key, value in each.items() if key not in OURS.get(each["name"], ())}
        for each in config.get("deployments") or []
    ]
    own = [each for each in left if each.keys() - {"name"}]
    rest = {key: value for key, value in config.items() if key != "deployments"}
    return {**rest, "deployments": own} if own else rest


def _by_name(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each["name"]): each for each in config.get("deployments") or []}


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
