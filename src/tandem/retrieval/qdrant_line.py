"""The line to a Qdrant server: requests that are sent again when the server or the network fails for a moment."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

from tandem.errors import AuthError, StoreError, UnreachableError

# Every request of ours can be sent twice: points have their ids, and what is created is looked for first.
PAUSES_S = (0.1, 0.5, 2.0)
LONGEST_PAUSE_S = 10.0  # a server that asks for more has its answer passed on
TRANSIENT = frozenset({429, 500, 502, 503, 504})
NOT_FOUND = object()


class QdrantLine:
    """A `QdrantClient` with patience.

    Args:
        url: ``http://host:6333``.
        api_key: The server's key, or None where it asks for none.
        timeout_s: Seconds that one request may take.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: int) -> None:
        from qdrant_client import QdrantClient

        self._url = url
        self._timeout_s = timeout_s
        with warnings.catch_warnings():
            # Inside a cluster the store's address is plain http, and whoever wrote it into the cluster file knows.
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            # The version check costs a request and only warns; the contract suite says which servers fit.
            self._client: Any = QdrantClient(url=url, api_key=api_key, timeout=timeout_s, check_compatibility=False)

    def ask(self, method: str, *args: Any, within_s: float | None = None, **kwargs: Any) -> Any:
        """What a method of the client returns, or `NOT_FOUND` for a 404.

        Args:
            method: Of the client.
            args: Its arguments.
            within_s: Seconds for it, with all that is sent again; None for the client's own time for each request.
            kwargs: Its arguments.

        Raises:
            AuthError: The server refuses the key.
            StoreError: It refuses the request, or fails again and again.
            UnreachableError: No answer, none in time, or half of one, again and again.
        """
        ends = None if within_s is None else time.monotonic() + within_s
        for pause in (*PAUSES_S, None):
            try:
                return self._once(method, *args, **kwargs, **self._limit(ends))
            except _PassingError as again:
                pause_s = pause if pause is None or again.after_s is None else again.after_s
                if pause_s is None or (ends is not None and time.monotonic() + pause_s >= ends):
                    raise again.error from again.__cause__
                time.sleep(pause_s)
        raise AssertionError("the last pause is None")

    def _limit(self, ends: float | None) -> dict[str, int]:
        if ends is None:
            return {}
        left_s = ends - time.monotonic()
        if left_s <= 0:
            raise self._unreachable("no time is left")
        # Whole seconds, as the server and the client take them.
        return {"timeout": min(math.ceil(left_s), self._timeout_s)}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _once(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

        try:
            return getattr(self._client, method)(*args, **kwargs)
        except ResourceExhaustedResponse as error:
            refused = StoreError(f"Qdrant has too much to do: {error}", where=self._url, remedy="give it more, or wait")
            if error.retry_after_s > LONGEST_PAUSE_S:
                raise refused from error
            raise _PassingError(refused, after_s=float(error.retry_after_s)) from error
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise AuthError(
                    "Qdrant refused the key",
                    where=self._url,
                    remedy="check the variable that `qdrant.api_key_env` names",
                ) from error
            if error.status_code == 404:
                return NOT_FOUND
            body = error.content.decode(errors="replace")[:300]
            refused = StoreError(f"Qdrant answered {error.status_code}: {body}", where=self._url)
            if error.status_code in TRANSIENT:
                raise _PassingError(refused) from error
            raise refused from error
        except ResponseHandlingException as error:
            raise _PassingError(self._unreachable(str(error.source))) from error
        # An answer that ends too early isn't JSON, which the client passes on as it is.
        except ValueError as error:
            raise _PassingError(self._unreachable(f"its answer can't be read: {error}")) from error
        except (ApiException, QdrantException) as error:
            raise StoreError(f"Qdrant: {error}", where=self._url) from error

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"Qdrant can't be reached: {why}", where=self._url, remedy="check `qdrant.url` and the server"
        )


class _PassingError(Exception):
    """A failure that may pass; the error is for when it doesn't."""

    def __init__(self, error: StoreError | UnreachableError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s
