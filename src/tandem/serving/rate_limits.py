"""How many requests are answered at once, and how many requests and tokens an API key may have per minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tandem.serving.api_errors import over_limit, overloaded
from tandem.serving.api_keys import Caller
from tandem.specs.rag import LimitSpec

MINUTE_S = 60.0


class ConcurrencyLimit:
    """Of the requests that are being answered, in this process alone.

    Args:
        observe: Called with their number whenever it changes.
    """

    def __init__(self, observe: Callable[[int], None]) -> None:
        self._observe = observe
        self._ongoing = 0

    def check(self, limits: LimitSpec) -> None:
        """Whether one more may begin.

        Raises:
            ApiError: 429: none may.
        """
        if self._ongoing >= limits.max_ongoing_requests:
            raise overloaded()

    def acquire(self, limits: LimitSpec) -> None:
        """One begins; `release` when it has ended.

        Raises:
            ApiError: 429: none may.
        """
        self.check(limits)
        self._ongoing += 1
        self._observe(self._ongoing)

    def release(self) -> None:
        """One has ended."""
        self._ongoing -= 1
        self._observe(self._ongoing)


@dataclass
class Bucket:
    """Holds a minute's worth and fills up evenly; it may owe, since an answer's length is known at its end.

    Attributes:
        limit: Per minute.
        level: What is left; below 0 it is owed.
        at: When that was so, seconds.
    """

    limit: int
    level: float
    at: float

    def refill(self, now: float) -> None:
        """What has come in since."""
        self.level = min(self.limit, self.level + (now - self.at) * self.limit / MINUTE_S)
        self.at = now

    def wait_s(self, wanted: float) -> float:
        """Until so much is in it."""
        return max(0.0, (wanted - self.level) * MINUTE_S / self.limit)


@dataclass
class Allowance:
    """One request's share of its key's limits."""

    buckets: dict[str, Bucket] = field(default_factory=dict)

    def spend(self, tokens: int) -> None:
        """Take an answer's tokens."""
        if "tokens" in self.buckets:
            self.buckets["tokens"].level -= tokens

    def headers(self) -> dict[str, str]:
        """The state of the limits, in OpenAI's words; nothing where there is no limit."""
        headers = {}
        for what, bucket in self.buckets.items():
            headers[f"x-ratelimit-limit-{what}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, int(bucket.level)))
            headers[f"x-ratelimit-reset-{what}"] = f"{bucket.wait_s(bucket.limit):.3f}s"
        return headers


class RateLimits:
    """The buckets of all keys that have called, in this process alone.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit(self, caller: Caller, limits: LimitSpec) -> Allowance:
        """Count a request.

        Raises:
            ApiError: 429: the key has had its requests, or its tokens.
        """
        allowed = {
            "requests": caller.requests_per_minute or limits.requests_per_minute,
            "tokens": caller.tokens_per_minute or limits.tokens_per_minute,
        }
        allowance = Allowance({what: self._bucket(caller.key, what, limit) for what, limit in allowed.items() if limit})
        for what, bucket in allowance.buckets.items():
            wait_s = bucket.wait_s(1)
            if wait_s:
                raise over_limit(what, bucket.limit, wait_s, allowance.headers())
        if "requests" in allowance.buckets:
            allowance.buckets["requests"].level -= 1
        return allowance

    def _bucket(self, key: str, what: str, limit: int) -> Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault((key, what), Bucket(limit, limit, now))
        bucket.limit = limit
        bucket.refill(now)
        return bucket
