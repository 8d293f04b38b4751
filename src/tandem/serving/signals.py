"""What is known of a request when it has ended: a line in the log, Ray's metrics and, while it runs, spans.

Spans are OpenTelemetry's and cost nothing until Ray Serve's tracing is on; its own go from deployment to deployment.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tandem.serving.answers import Searched, Usage

# Below Serve's own logger, whose files a replica writes; with `logging_config: {encoding: JSON}` fields stay fields.
logger = logging.getLogger("ray.serve.tandem.requests")

REQUEST_ID = "x-request-id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
TENANTS_SHOWN = 50  # each is a time series of its own
ERRORS_SHOWN = 50
OTHERS = "(others)"

Observe = Callable[["Observation"], None]


def request_id(given: str | None) -> str:
    """The id that a request came with, if it is one that may stand in a log; else a new one."""
    return given if given and _SANE_ID.fullmatch(given) else uuid.uuid4().hex


@dataclass
class Observation:
    """One request, filled in while it is answered.

    Attributes:
        id: Of the request.
        path: As it was asked for.
        model: A name that the application knows; empty where none was named.
        tenant: Of the caller; ``*`` for a key of all tenants, empty without a key.
        stream: Whether the answer was streamed.
        status: HTTP.
        error: OpenAI's code of the error; after the status in a stream that broke.
        searched: What the search gave, where there was one.
        usage: Tokens.
        cached: Whether the answer came from the cache.
        first_piece_s: Seconds from the request to the first of the answer.
        total_s: Seconds from the request to the last of the answer.
    """

    id: str
    path: str
    model: str = ""
    tenant: str = ""
    stream: bool = False
    status: int = 0
    error: str = ""
    searched: Searched | None = None
    usage: Usage | None = None
    cached: bool = False
    first_piece_s: float | None = None
    total_s: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def heard(self) -> None:
        """A piece of the answer has come."""
        if self.first_piece_s is None:
            self.first_piece_s = time.perf_counter() - self._started

    def ended(self, observe: Observe) -> None:
        """The last of the answer has been sent, or nobody waits for it any more."""
        self.total_s = time.perf_counter() - self._started
        observe(self)

    def fields(self) -> dict[str, Any]:
        """What there is to say, as JSON types; nothing of question, answer or key."""
        said: dict[str, Any] = {
            "request": self.id,
            "path": self.path,
            "status": self.status,
            "model": self.model,
            "tenant": self.tenant,
            "stream": self.stream,
            "total_ms": _ms(self.total_s),
        }
        if self.searched is not None:
            said |= {"found": self.searched.found, "search_ms": _ms(self.searched.seconds)}
        if self.first_piece_s is not None:
            said["first_piece_ms"] = _ms(self.first_piece_s)
        if self.usage is not None:
            said |= {"prompt_tokens": self.usage.prompt_tokens, "completion_tokens": self.usage.completion_tokens}
        if self.cached:
            said["cached"] = True
        if self.error:
            said["error"] = self.error
        return said


def log(seen: Observation) -> None:
    """Write a request's line; one that failed by our fault stands out."""
    fields = seen.fields()
    level = logging.ERROR if seen.status >= 500 or (seen.error and seen.status == 200) else logging.INFO
    text = " ".join(f"{key}={value}" for key, value in fields.items() if value not in ("", False))
    logger.log(level, text, extra={"tandem": fields})


class Meter:
    """Ray's metrics of the endpoint, and so Prometheus's.

    Args:
        app: The application's name, a tag of each.
    """

    def __init__(self, app: str) -> None:
        from ray.serve.metrics import Gauge
        from ray.util.metrics import Counter, Histogram

        keys = ("app", "model", "tenant")

        def counter(name: str, description: str, *more: str) -> Any:
            made = Counter(f"tandem_endpoint_{name}", description, tag_keys=(*keys, *more))
            made.set_default_tags({"app": app})
            return made

        def seconds(name: str, description: str) -> Any:
            made = Histogram(f"tandem_endpoint_{name}_seconds", description, boundaries=_SECONDS, tag_keys=keys)
            made.set_default_tags({"app": app})
            return made

        self._in_flight = Gauge("tandem_endpoint_in_flight", "Requests that are being answered", tag_keys=("app",))
        self._in_flight.set_default_tags({"app": app})
        self._answered_now = 0
        self._requests = counter("requests", "Requests by path and status", "path", "status")
        self._errors = counter("errors", "Answers that failed, streams that broke among them", "path", "kind")
        self._tokens = counter("tokens", "Tokens of prompts and answers", "kind")
        self._searches = counter("searches", "Searches by whether they found anything", "found")
        self._cache_hits = counter("answer_cache_hits", "Answers that came from the cache")
        self._first = seconds("time_to_first_token", "From the request to the first of the answer")
        self._total = seconds("request", "From the request to the last of the answer")
        self._search = seconds("retrieval", "Of the search, the rewriting of the question included")
        self._generation = seconds("generation", "From the end of the search to the last of the answer")
        self._tenants = Bounded(TENANTS_SHOWN)
        self._kinds = Bounded(ERRORS_SHOWN)

    def in_flight(self, requests: int) -> None:
        """So many are being answered now, by this replica."""
        self._answered_now = requests
        self.keep()

    def keep(self) -> None:
        """Say again how many: Ray drops a gauge that nobody has set for 20 s."""
        self._in_flight.set(self._answered_now)

    def __call__(self, seen: Observation) -> None:
        """Count a request that has ended."""
        tags = {"model": seen.model, "tenant": self._tenants(seen.tenant)}
        self._requests.inc(1, tags={**tags, "path": seen.path, "status": str(seen.status)})
        if seen.error:
            self._errors.inc(1, tags={**tags, "path": seen.path, "kind": self._kinds(seen.error)})
        if seen.searched is not None:
            self._searches.inc(1, tags={**tags, "found": "yes" if seen.searched.found else "no"})
            self._search.observe(seen.searched.seconds, tags=tags)
        if seen.cached:
            self._cache_hits.inc(1, tags=tags)
        if seen.usage is not None:
            for kind, tokens in (("prompt", seen.usage.prompt_tokens), ("completion", seen.usage.completion_tokens)):
                if tokens:
                    self._tokens.inc(tokens, tags={**tags, "kind": kind})
        if seen.first_piece_s is not None:
            self._first.observe(seen.first_piece_s, tags=tags)
            self._total.observe(seen.total_s, tags=tags)
            before = seen.searched.seconds if seen.searched else 0.0
            self._generation.observe(max(seen.total_s - before, 0.0), tags=tags)


class QuestionMeter:
    """Ray's metric of a retriever replica: questions whose vectors were kept, and those that were computed."""

    def __init__(self) -> None:
        from ray.serve.metrics import Counter

        self._questions = Counter(
            "tandem_retriever_questions", "Questions by whether their vectors were kept", tag_keys=("kept",)
        )
        self._told = {"yes": 0, "no": 0}

    def __call__(self, hits: int, misses: int) -> None:
        """Count what has been added to these totals since; smaller ones are a new retriever's."""
        for kept, total in (("yes", hits), ("no", misses)):
            before = self._told[kept] if total >= self._told[kept] else 0
            if total > before:
                self._questions.inc(total - before, tags={"kept": kept})
            self._told[kept] = total


class Bounded:
    """The values of a tag: the first ones by name, all others as one.

    Args:
        size: How many have a name.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """What to write for a value."""
        if value not in self._known and len(self._known) >= self._size:
            return OTHERS
        self._known.add(value)
        return value


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
