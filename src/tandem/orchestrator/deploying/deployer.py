"""Applications on Ray Serve, through its REST API: what is deployed beside ours stays deployed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.errors import InputError, NotFoundError, TandemError, UnreachableError
from tandem.models.loading import adapter_path, model_path_here
from tandem.models.lora import adapter_rank, check_fits
from tandem.orchestrator.deploying.app_status import AppStatus, cause_line, judge
from tandem.orchestrator.deploying.in_place import in_place, is_endpoint, present_spec, without_taken_over
from tandem.orchestrator.deploying.merging import planned
from tandem.orchestrator.deploying.releases import Act, Cause, Releases, last_file
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.retrieval.snapshot import find_snapshot
from tandem.specs.rag import RagSpec

APPLICATIONS = "/api/serve/applications/"
# The first call starts Serve's controller.
SERVE_TIMEOUT_S = 60.0


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


@dataclass(frozen=True)
class Handed:
    """What a deploy handed to Ray Serve.

    Attributes:
        names: Of its applications.
        notes: What else is to be known, a line each.
    """

    names: list[str]
    notes: list[str]


class Deployer:
    """Deploys to one cluster's Serve.

    Args:
        cluster: Which one.
        ray: Carries the calls.
        releases: Where it is written down what endpoints answer with.
        check: Called before each change; raises where another server is to make it.
    """

    def __init__(
        self, cluster: Cluster, ray: HttpRayJobs, releases: Releases, *, check: Callable[[], None] = lambda: None
    ) -> None:
        self._cluster = cluster
        self.ray = ray
        self.releases = releases
        # A PUT says what all of Serve is to be: two that read the same state would undo each other. So one server alone
        # changes it, one change after another.
        self._check = check
        self._changing = threading.Lock()

    def deploy(self, config: Mapping[str, Any], *, by: str = "") -> Handed:
        """Deploy a config's applications beside those that are there, without waiting for them.

        An `artifact:NAME` means its newest version, or the promoted one where one was promoted in that application.

        Args:
            config: A Serve config.
            by: Whose key it was sent with.

        Raises:
            ConflictError: Another server acts.
            DatabaseError: The job records can't be used now.
            InputError: Serve refuses the config, or two applications want the same route.
            ModelError: An adapter for a running application is none of its base model; nothing has changed.
            NotFoundError: There is no such adapter or artifact.
            UnreachableError: Serve doesn't answer.
        """
        with self._changing:
            current = self._current()
            endpoints = _endpoints(current)
            notes: list[str] = []
            files: dict[str, RagSpec] = {}
            applications = []
            for application in config["applications"]:
                name = str(application["name"])
                self.releases.settle(name, endpoints.get(name))
                file, life = present_spec(application), self.releases.life(name)
                if file is not None and file != last_file(life):
                    files[name] = file
                plan, said = planned(application, file, life, endpoints.get(name), self._cluster.storage)
                applications.append(plan)
                notes += said
            self._tell(current, {**config, "applications": applications}, Cause(by=by), files)
        return Handed([str(application["name"]) for application in applications], notes)

    def change(self, name: str, before: RagSpec, after: RagSpec, cause: Cause) -> bool:
        """Have an endpoint answer otherwise; all else of its config stays.

        Args:
            name: The application's.
            before: What it answers with now, as far as the caller knows.
            after: What it shall answer with.
            cause: Why.

        Returns:
            False where it answers with something else by now: nothing has changed.

        Raises:
            NotFoundError: No endpoint of that name is deployed.
            TandemError: As `deploy`.
        """
        with self._changing:
            current = self._current()
            present, config = _present(name, current), deployed(current)[name]
            if present != before:
                return False
            last = self.releases.of(name, limit=1)
            if not last or last[0].act is Act.UNDEPLOY or last[0].read() != present:
                # There must be a way back to it.
                self.releases.done(self.releases.begin(name, present, Cause(Act.FOUND)))
            application = {**without_taken_over(config), "args": after.canonical()}
            self._tell(current, {"applications": [application]}, cause, {})
            return True

    def endpoints(self) -> dict[str, RagSpec]:
        """What each application of ours answers with."""
        return _endpoints(self._current())

    def endpoint(self, name: str) -> RagSpec:
        """What one of them answers with; its releases are complete from then on.

        Raises:
            NotFoundError: No endpoint of that name is deployed.
            InputError: Another version of Tandem has deployed it.
        """
        with self._changing:
            present = _present(name, self._current())
            self.releases.settle(name, present)
            return present

    def _tell(
        self,
        current: Mapping[str, Any],
        wanted: Mapping[str, Any],
        cause: Cause,
        files: Mapping[str, RagSpec],
    ) -> None:
        applications = [
            in_place(current, self._with_storage(application), self._largest_rank)
            for application in wanted["applications"]
        ]
        whole = merged(current, {**wanted, "applications": applications})
        if taken := clashes(whole):
            raise InputError(
                f"two applications have the route {', '.join(taken)}",
                remedy="give one another `route_prefix`, or `tandem undeploy` the other",
            )
        self._check()
        before = _endpoints(current)
        begun = []
        for name, spec in ((str(each["name"]), present_spec(each)) for each in applications):
            if spec is not None and (spec != before.get(name) or name in files):
                facts = {**cause.facts, "index": self.snapshot(spec), "deployed_at": _deployed_at(current, name)}
                facts |= {"file": files[name].canonical()} if name in files else {}
                begun.append(self.releases.begin(name, spec, replace(cause, facts=facts)))
        self._put(whole)
        for number in begun:
            self.releases.done(number)

    def snapshot(self, spec: RagSpec) -> str | None:
        """The snapshot of the collection that an endpoint searches, as the newest index job left it."""
        found = find_snapshot(self._cluster.storage, spec.retriever.collection)
        return found.id if found else None

    def undeploy(self, name: str, *, by: str = "") -> None:
        """Take one application down; what was promoted in it is forgotten with it.

        Raises:
            ConflictError: Another server acts.
            NotFoundError: There is none of that name.
        """
        with self._changing:
            present = deployed(self._current())
            spec = present_spec(present.get(name, {}))
            if name not in present:
                known = ", ".join(sorted(present)) or "none"
                raise NotFoundError(f"no application {name!r} is deployed", remedy=f"deployed now: {known}")
            self._check()
            begun = None if spec is None else self.releases.begin(name, spec, Cause(Act.UNDEPLOY, by))
            self._put({"applications": [config for other, config in present.items() if other != name]})
            if begun is not None:
                self.releases.done(begun)

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


def _present(name: str, current: Mapping[str, Any]) -> RagSpec:
    config = deployed(current).get(name, {})
    present = present_spec(config)
    if present is not None:
        return present
    if is_endpoint(config):
        raise InputError("its spec is in words that this version doesn't know", where=name, remedy="deploy its file")
    there = ", ".join(sorted(_endpoints(current))) or "none"
    raise NotFoundError(f"no endpoint {name!r} is deployed", remedy=f"deployed now: {there}; `tandem deploy FILE`")


def _deployed_at(current: Mapping[str, Any], name: str) -> float:
    details = (current.get("applications") or {}).get(name) or {}
    return float(details.get("last_deployed_time_s") or 0.0)


def _endpoints(current: Mapping[str, Any]) -> dict[str, RagSpec]:
    specs = {name: present_spec(config) for name, config in deployed(current).items()}
    return {name: spec for name, spec in specs.items() if spec is not None}
