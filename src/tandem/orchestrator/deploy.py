"""Applications on Ray Serve, through its REST API: what is deployed beside ours stays deployed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from tandem.artifacts.manifest import latest, read_manifest
from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.errors import InputError, NotFoundError, TandemError, UnreachableError
from tandem.models.loading import adapter_path, model_path_here
from tandem.models.lora import adapter_rank, check_fits
from tandem.orchestrator.in_place import in_place
from tandem.orchestrator.ray_jobs import HttpRayJobs

APPLICATIONS = "/api/serve/applications/"
# The first call starts Serve's controller.
SERVE_TIMEOUT_S = 60.0
# What Serve says of a deployment whose replica raised in its constructor; it goes on trying for minutes.
REPLICA_FAILED = ("failed to start", "Exception raised in", "constructor failed")

Verdict = Literal["running", "waiting", "failed"]


@dataclass(frozen=True)
class AppStatus:
    """How an application stands.

    Attributes:
        name: Of the application.
        state: Ray Serve's word for it.
        verdict: Ours: Serve calls a version that can't start DEPLOYING for a long time.
        message: Why, in one line.
        url: Where it answers.
        deployed_at: Seconds since the epoch of the last deploy, by which a new version is told from the old one.
        replicas: Running replicas by deployment.
    """

    name: str
    state: str
    verdict: Verdict
    message: str
    url: str
    deployed_at: float
    replicas: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def merged(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The config to PUT: the wanted applications, and those deployed now under other names.

    An application that a PUT leaves out is deleted, so none may be left out.

    Args:
        current: What Serve's GET returned.
        wanted: A Serve config.
    """
    names = {application["name"] for application in wanted["applications"]}
    kept = [config for name, config in deployed(current).items() if name not in names]
    return {**wanted, "applications": [*kept, *wanted["applications"]]}


def deployed(current: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configs of the applications that Serve has, except those being deleted, by name."""
    return {
        name: details["deployed_app_config"]
        for name, details in (current.get("applications") or {}).items()
        if details.get("deployed_app_config") and details.get("status") != "DELETING"
    }


def clashes(config: Mapping[str, Any]) -> list[str]:
    """Route prefixes that two applications of a config ask for."""
    prefixes = [str(application.get("route_prefix", "/")) for application in config["applications"]]
    return sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})


def judge(current: Mapping[str, Any], name: str, endpoint_url: str) -> AppStatus:
    """What Serve's details of an application come to.

    Args:
        current: What Serve's GET returned.
        name: An application in it.
        endpoint_url: Where Serve listens.
    """
    details: Mapping[str, Any] = current["applications"][name]
    state = str(details.get("status", "NOT_STARTED"))
    deployments: Mapping[str, Any] = details.get("deployments") or {}
    messages = [str(deployment.get("message") or "") for deployment in deployments.values()]
    broken = [text for text in messages if any(sign in text for sign in REPLICA_FAILED)]
    verdict: Verdict = "waiting"
    message = str(details.get("message") or "")
    proxies = [str(proxy.get("status")) for proxy in (current.get("proxies") or {}).values()]
    if state == "RUNNING" and proxies and "HEALTHY" not in proxies:
        # Replicas that nobody can reach: Serve calls that RUNNING.
        message = f"Ray Serve's HTTP proxy is {', '.join(proxies)}"
    elif state == "RUNNING":
        verdict = "running"
    elif state in ("DEPLOY_FAILED", "UNHEALTHY") or broken:
        verdict, message = "failed", (broken or [message])[0]
    return AppStatus(
        name=name,
        state=state,
        verdict=verdict,
        message=cause_line(message),
        url=endpoint_url.rstrip("/") + str(details.get("route_prefix") or "/").rstrip("/"),
        deployed_at=float(details.get("last_deployed_time_s") or 0.0),
        replicas={
            key: sum(replica.get("state") == "RUNNING" for replica in deployment.get("replicas") or [])
            for key, deployment in deployments.items()
        },
    )


def cause_line(message: str) -> str:
    """The line of a message that says why: of a traceback the exception, else the first."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    raised = [line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception"))]
    return (raised[-1] if raised and "Traceback" in message else lines[0])[:500]


def pin_artifacts(value: Any, cluster: Cluster) -> Any:
    """A config with each ``artifact:NAME`` made ``artifact:NAME@ID``.

    A config that says the same as before changes nothing for Serve, so a newer artifact must show in it.

    Raises:
        NotFoundError: No job of that name has made anything.
    """
    if isinstance(value, dict):
        return {key: pin_artifacts(item, cluster) for key, item in value.items()}
    if isinstance(value, list):
        return [pin_artifacts(item, cluster) for item in value]
    if isinstance(value, str) and value.startswith("artifact:") and "@" not in value:
        return f"{value}@{read_manifest(latest(cluster.storage, value.removeprefix('artifact:'))).id}"
    return value


class Deployer:
    """Deploys to one cluster's Serve.

    Args:
        cluster: Which one.
        ray: Carries the calls.
        check: Called before each change; raises where another server is to make it.
    """

    def __init__(self, cluster: Cluster, ray: HttpRayJobs, *, check: Callable[[], None] = lambda: None) -> None:
        self._cluster = cluster
        self.ray = ray
        # A PUT says what all of Serve is to be: two that read the same state would undo each other. So one server alone
        # changes it, one change after another.
        self._check = check
        self._changing = threading.Lock()

    def deploy(self, config: Mapping[str, Any]) -> list[str]:
        """Deploy a config's applications beside those that are there; returns their names without waiting for them.

        Raises:
            ConflictError: Another server acts.
            InputError: Serve refuses the config, or two applications want the same route.
            ModelError: An adapter for a running application is none of its base model; nothing has changed.
            NotFoundError: There is no such adapter or artifact.
            UnreachableError: Serve doesn't answer.
        """
        pinned = pin_artifacts(dict(config), self._cluster)
        with self._changing:
            current = self._current()
            applications = [
                in_place(current, self._with_storage(application), self._largest_rank)
                for application in pinned["applications"]
            ]
            wanted = merged(current, {**pinned, "applications": applications})
            if taken := clashes(wanted):
                raise InputError(
                    f"two applications have the route {', '.join(taken)}",
                    remedy="give one another `route_prefix`, or `tandem undeploy` the other",
                )
            self._put(wanted)
        return [str(application["name"]) for application in config["applications"]]

    def undeploy(self, name: str) -> None:
        """Take one application down.

        Raises:
            ConflictError: Another server acts.
            NotFoundError: There is none of that name.
        """
        with self._changing:
            present = deployed(self._current())
            if name not in present:
                known = ", ".join(sorted(present)) or "none"
                raise NotFoundError(f"no application {name!r} is deployed", remedy=f"deployed now: {known}")
            self._put({"applications": [config for other, config in present.items() if other != name]})

    def status(self) -> list[AppStatus]:
        """Every application that Serve has."""
        current = self._current()
        return [judge(current, name, self._cluster.endpoint_url) for name in current.get("applications") or {}]

    def _with_storage(self, application: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the variable that tells it the storage folder; a local cluster's processes have it from `ray start`."""
        if self._cluster.local:
            return application
        environment = application.get("runtime_env") or {}
        variables = {STORAGE_VARIABLE: str(self._cluster.storage), **(environment.get("env_vars") or {})}
        return {**application, "runtime_env": {**environment, "env_vars": variables}}

    def _largest_rank(self, model: str, adapters: Sequence[str]) -> int:
        # Here, where its sender hears of it: a running replica only logs that an adapter doesn't load.
        base = model_path_here(model, storage=self._cluster.storage)
        folders = [adapter_path(uri, storage=self._cluster.storage) for uri in adapters]
        for folder in folders:
            if base is not None:
                check_fits(folder, base)
        return max(map(adapter_rank, folders))

    def _current(self) -> dict[str, Any]:
        response = self.ray.call("GET", APPLICATIONS, timeout=SERVE_TIMEOUT_S)
        if not response.is_success:
            raise UnreachableError("Ray Serve doesn't answer", where=self._cluster.dashboard_url)
        data: dict[str, Any] = response.json()
        return data

    def _put(self, config: Mapping[str, Any]) -> None:
        self._check()
        body = {**config, **self._options(config)}
        response = self.ray.call("PUT", APPLICATIONS, json=body, timeout=SERVE_TIMEOUT_S)
        if response.status_code == 400:
            said = cause_line(response.text)
            raise InputError(f"Ray Serve refuses the config: {said}", remedy="mend the Serve config")
        if not response.is_success:
            said = cause_line(response.text) or f"status {response.status_code}"
            raise TandemError(f"Ray Serve couldn't deploy: {said}", where=self._cluster.dashboard_url)

    def _options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        # The cluster says where its endpoint listens; Serve ignores other words once it runs.
        endpoint = urlsplit(self._cluster.endpoint_url)
        options = dict(config.get("http_options") or {})
        if self._cluster.local:
            options |= {"host": endpoint.hostname, "port": endpoint.port}
            return {"http_options": options, "proxy_location": "HeadOnly"}
        return {"http_options": options} if options else {}
