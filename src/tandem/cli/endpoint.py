"""A small client of the endpoint, for `tandem ask`; programs use the `openai` package."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from tandem.errors import AuthError, InputError, NotFoundError, TandemError, UnreachableError

if TYPE_CHECKING:
    from tandem.cli.client import Client

TIMEOUT_S = 180.0


class Endpoint:
    """One application's OpenAI-compatible API.

    Args:
        url: Where it is, without ``/v1``.
        api_key: The caller's.
        transport: Replaces the network in tests.
    """

    def __init__(self, url: str, api_key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=f"{url}/v1", headers=headers, timeout=TIMEOUT_S, transport=transport, trust_env=False
        )

    @classmethod
    def of(cls, client: Client, name: str | None) -> Endpoint:
        """The application of this name, or the only one there is.

        Raises:
            NotFoundError: There is none, or several and no name.
        """
        apps = client.apps()
        known = ", ".join(sorted(app["name"] for app in apps)) or "none"
        found = [app for app in apps if name is None or app["name"] == name]
        if not found:
            what = "nothing is deployed" if name is None else f"no application {name!r} is deployed"
            raise NotFoundError(what, remedy=f"`tandem deploy FILE`; deployed now: {known}")
        if len(found) > 1:
            raise NotFoundError("several applications are deployed", remedy=f"choose one with --app: {known}")
        return cls(found[0]["url"], client.cluster.api_key())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Names that a request's `model` may have; the application's own first."""
        return [str(model["id"]) for model in self._checked(self._call("GET", "/models")).json()["data"]]

    def ask(self, question: str, model: str) -> dict[str, Any]:
        """The whole body of an answer."""
        body: dict[str, Any] = self._checked(
            self._call("POST", "/chat/completions", json=_body(question, model))
        ).json()
        return body

    def stream(self, question: str, model: str, *, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """Hand over an answer piece by piece.

        Returns:
            Its citations.
        """
        citations: list[dict[str, Any]] = []
        body = {**_body(question, model), "stream": True}
        try:
            with self._http.stream("POST", "/chat/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                self._checked(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data: ")
                    if data in (line, "[DONE]"):
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        raise TandemError(f"the endpoint broke off: {event['error']['message']}", where=self._url)
                    citations = event.get("citations") or citations
                    for choice in event.get("choices", []):
                        say(choice["delta"].get("content") or "")
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        return citations

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the endpoint doesn't answer: {type(error).__name__}",
            where=self._url,
            remedy="`tandem status` shows how it stands",
        )

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            said = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            said = f"status {response.status_code}"
        if response.status_code in (401, 403):
            raise AuthError(f"the endpoint refuses this API key: {said}", where=self._url)
        kind = InputError if response.status_code < 500 else TandemError
        raise kind(
            f"the endpoint refuses: {said}" if kind is InputError else f"the endpoint failed: {said}", where=self._url
        )


def _body(question: str, model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}]}
