"""HTTP client of the Tandem server: the errors that come back are the ones that were raised there."""

from __future__ import annotations

from typing import Any

import httpx

import tandem.errors
from tandem.config.cluster import Cluster
from tandem.errors import AuthError, TandemError, UnreachableError

TIMEOUT_S = 30.0
# Serve's controller may have to start first.
SERVE_CALL_TIMEOUT_S = 180.0
NEXT_OFFSET = "X-Next-Offset"


class Client:
    """The server of one cluster.

    Args:
        cluster: Says where it is, and which key to present.
        transport: Replaces the network in tests.
    """

    def __init__(self, cluster: Cluster, *, transport: httpx.BaseTransport | None = None) -> None:
        self.cluster = cluster
        self._http = httpx.Client(
            base_url=f"{cluster.server_url}/api/v1",
            headers={"Authorization": f"Bearer {cluster.api_key()}"},
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    @classmethod
    def connect(cls) -> Client:
        """To the cluster of the current folder, or of ``$TANDEM_STORAGE``.

        Raises:
            UnreachableError: No cluster was started there.
        """
        return cls(Cluster.load())

    def status(self) -> dict[str, Any]:
        """Version, whether Ray answers, jobs by state."""
        return self._json("GET", "/status")

    def submit(self, spec: dict[str, Any], *, again: bool = False) -> dict[str, Any]:
        """Queue a job; ``created`` says whether it is new."""
        return self._json("POST", "/jobs", json={"spec": spec, "again": again})

    def plan(self, spec: dict[str, Any]) -> list[dict[str, Any]]:
        """What would become of each step of a pipeline: step, kind, needs, does, job."""
        data: list[dict[str, Any]] = self._request("POST", "/jobs/plan", json={"spec": spec}).json()
        return data

    def jobs(self, **filters: Any) -> list[dict[str, Any]]:
        """Jobs in the order of their submission; filters: state, name, kind, limit."""
        chosen = {key: value for key, value in filters.items() if value not in (None, [])}
        data: list[dict[str, Any]] = self._request("GET", "/jobs", params=chosen).json()
        return data

    def job(self, job_id: str) -> dict[str, Any]:
        """One job with its events and attempts."""
        return self._json("GET", f"/jobs/{job_id}")

    def stop(self, job_id: str) -> dict[str, Any]:
        """Ask for a job's end."""
        return self._json("POST", f"/jobs/{job_id}/stop")

    def logs(self, job_id: str, offset: int = 0) -> tuple[str, int]:
        """What a job has printed from a byte on, and the offset of what comes next."""
        response = self._request("GET", f"/jobs/{job_id}/logs", params={"offset": offset})
        return response.text, int(response.headers[NEXT_OFFSET])

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """phase, done, total, figures; None before the job has said anything."""
        data: dict[str, Any] | None = self._request("GET", f"/jobs/{job_id}/progress").json()
        return data

    def result(self, job_id: str) -> dict[str, Any]:
        """What a job that succeeded returned."""
        return self._json("GET", f"/jobs/{job_id}/result")

    def deploy(self, config: dict[str, Any]) -> list[str]:
        """Hand a Serve config over; returns the applications' names without waiting for them."""
        response = self._json("PUT", "/apps", json={"config": config}, timeout=SERVE_CALL_TIMEOUT_S)
        return [str(name) for name in response["applications"]]

    def apps(self) -> list[dict[str, Any]]:
        """Every application that Ray Serve has."""
        data: list[dict[str, Any]] = self._request("GET", "/apps", timeout=SERVE_CALL_TIMEOUT_S).json()
        return data

    def undeploy(self, name: str) -> None:
        """Take an application down."""
        self._request("DELETE", f"/apps/{name}", timeout=SERVE_CALL_TIMEOUT_S)

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        data: dict[str, Any] = self._request(method, path, **options).json()
        return data

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        url = self.cluster.server_url
        try:
            response = self._http.request(method, path, **options)
        except httpx.ConnectError:
            raise UnreachableError(
                "the Tandem server doesn't answer", where=url, remedy="run `tandem up`; it starts what isn't up"
            ) from None
        except httpx.TransportError as error:
            raise UnreachableError(
                f"the Tandem server broke off: {type(error).__name__}",
                where=url,
                remedy="see logs/server.log in the storage folder",
            ) from None
        if response.is_success:
            return response
        raise error_of(response, url)


def error_of(response: httpx.Response, url: str) -> TandemError:
    """The error that a server's response stands for."""
    try:
        body = response.json()
        detail = body["error"] if "error" in body else {"what": f"the server refuses the request: {body['detail']}"}
    except (ValueError, KeyError, TypeError):
        return TandemError(f"the server answered with status {response.status_code}", where=url)
    fields = {"where": detail.get("where"), "remedy": detail.get("remedy")}
    if response.status_code == 401:
        return AuthError(str(detail["what"]), where=url, remedy=detail.get("remedy"))
    kind = getattr(tandem.errors, str(detail.get("type")), TandemError)
    if not (isinstance(kind, type) and issubclass(kind, TandemError)) or kind is tandem.errors.InvalidSpecError:
        kind = tandem.errors.SpecError if kind is tandem.errors.InvalidSpecError else TandemError
    error: TandemError = kind(str(detail["what"]), **fields)
    return error
