from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.schema import DeploymentSchema
from stand_ins.shell import language_model
from stand_ins.world import make_cluster

from tandem.artifacts.manifest import write_manifest
from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.errors import AuthError, InputError, ModelError, NotFoundError, UnreachableError
from tandem.orchestrator.deploying.app_status import cause_line, judge
from tandem.orchestrator.deploying.deployer import Deployer, merged
from tandem.orchestrator.deploying.in_place import without_taken_over
from tandem.orchestrator.deploying.releases import Releases
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records


def app(name: str, route: str = "/", **args: Any) -> dict[str, Any]:
    return {"name": name, "route_prefix": route, "import_path": "tandem.serving.app:build", "args": args}


class Serve:
    """Ray Serve's REST API as far as it is used: what a PUT leaves out is deleted."""

    def __init__(self) -> None:
        self.apps: dict[str, dict[str, Any]] = {}
        self.puts: list[dict[str, Any]] = []
        self.status = "RUNNING"
        self.max_rank: int | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            body = json.loads(request.content)
            self.puts.append(body)
            self.apps = {config["name"]: config for config in body["applications"]}
            return httpx.Response(200)
        details = {
            name: {
                "status": self.status,
                "deployed_app_config": config,
                "route_prefix": config["route_prefix"],
                "deployments": self.deployments(config),
            }
            for name, config in self.apps.items()
        }
        return httpx.Response(200, json={"applications": details, "proxies": {"n": {"status": "HEALTHY"}}})

    def deployments(self, config: dict[str, Any]) -> dict[str, Any]:
        """Of a language model that takes adapters."""
        return {} if self.max_rank is None else language_model(config, self.max_rank)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return make_cluster(tmp_path)


@pytest.fixture
def serve() -> Serve:
    return Serve()


@pytest.fixture
def releases(cluster: Cluster) -> Iterator[Releases]:
    records = Records(cluster.database_url)
    yield Releases(records.database)
    records.close()


@pytest.fixture
def deployer(cluster: Cluster, serve: Serve, releases: Releases) -> Deployer:
    return Deployer(cluster, HttpRayJobs(cluster, transport=httpx.MockTransport(serve)), releases)


def test_what_is_deployed_beside_stays_deployed(deployer: Deployer, serve: Serve) -> None:
    assert deployer.deploy({"applications": [app("a", "/a", top_k=1)]}).names == ["a"]
    deployer.deploy({"applications": [app("b", "/b")]})
    deployer.deploy({"applications": [app("a", "/a", top_k=2)]})
    assert {name: config["args"] for name, config in serve.apps.items()} == {"a": {"top_k": 2}, "b": {}}
    deployer.undeploy("a")
    assert list(serve.apps) == ["b"]


def test_on_a_cluster_that_is_not_ours_only_what_we_deploy_is_told_the_storage(
    cluster: Cluster, serve: Serve, releases: Releases
) -> None:
    attached = replace(cluster, local=False)
    deployer = Deployer(attached, HttpRayJobs(attached, transport=httpx.MockTransport(serve)), releases)
    theirs = {"name": "theirs", "route_prefix": "/theirs", "import_path": "other:app"}  # Serve compares it word by word
    serve.apps = {"theirs": theirs}
    ours = {**app("a", "/a"), "runtime_env": {"env_vars": {"A": "1"}}}
    deployer.deploy({"applications": [ours]})
    assert serve.apps["theirs"] == theirs
    assert serve.apps["a"]["runtime_env"] == {"env_vars": {"A": "1", STORAGE_VARIABLE: str(cluster.storage)}}
    deployer.undeploy("a")
    assert serve.apps == {"theirs": theirs}
    with pytest.raises(NotFoundError, match="no application 'a'"):
        deployer.undeploy("a")


def rag(route: str = "/", **changes: Any) -> dict[str, Any]:
    args = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}, **changes}
    return {**app("a", route), "args": args}


def options(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of the deployments that an application's config overrides, by name."""
    return {each["name"]: each for each in config["deployments"]}


def test_what_an_application_can_take_over_while_it_runs_costs_no_replica(deployer: Deployer, serve: Serve) -> None:
    deployer.deploy({"applications": [rag()]})
    first = serve.apps["a"]
    for top_k in (5, 7):
        deployer.deploy({"applications": [rag(retriever={"collection": "docs", "top_k": top_k})]})
        changed = serve.apps["a"]
        assert changed["args"] == first["args"]
        told = options(changed)
        assert told["Ingress"]["user_config"]["retriever"]["top_k"] == top_k
        assert all("user_config" not in told[part] for part in ("Retriever", "LLM"))
    # Back to what the args say, which Serve must be told too.
    deployer.deploy({"applications": [rag()]})
    assert options(serve.apps["a"])["Ingress"]["user_config"]["retriever"]["top_k"] == 3


def test_somebodys_own_overrides_stay_and_cost_no_replica_either(deployer: Deployer, serve: Serve) -> None:
    own = [{"name": "LLM", "num_replicas": 2, "max_ongoing_requests": 5}, {"name": "Retriever", "num_replicas": 3}]
    deployer.deploy({"applications": [{**rag(), "deployments": own}]})
    for top_k in (5, 7):
        changed = rag(retriever={"collection": "docs", "top_k": top_k})
        deployer.deploy({"applications": [{**changed, "deployments": own}]})
        assert serve.apps["a"]["args"] == rag()["args"]
        told = options(serve.apps["a"])
        assert told["Ingress"]["user_config"]["retriever"]["top_k"] == top_k
        assert (told["LLM"]["num_replicas"], told["LLM"]["max_ongoing_requests"]) == (2, 5)
        assert told["Retriever"]["num_replicas"] == 3
    # What isn't said any more is gone.
    deployer.deploy({"applications": [rag()]})
    assert serve.apps["a"] == rag()


def test_what_is_written_into_a_running_application_is_known_again(deployer: Deployer, serve: Serve) -> None:
    deployer.deploy({"applications": [rag()]})
    deployer.deploy({"applications": [rag(limits={"timeout_s": 600}, log_prompts=True)]})
    assert without_taken_over(serve.apps["a"]) == rag()
    # An ingress that was built before there were canaries refuses to hear of them.
    assert "canary" not in options(serve.apps["a"])["Ingress"]["user_config"]


def test_a_canary_that_was_deployed_is_ended_while_it_runs(deployer: Deployer, serve: Serve, tmp_path: Path) -> None:
    serve.max_rank = 16
    tried = adapter(tmp_path / "one")
    canary = {"model": "one", "share": 0.5}
    deployer.deploy({"applications": [rag(adapters=[tried], canary=canary)]})
    deployer.deploy({"applications": [rag(adapters=[tried])]})
    assert serve.apps["a"]["args"]["canary"] == canary
    assert options(serve.apps["a"])["Ingress"]["user_config"]["canary"] is None


@pytest.mark.parametrize("status", ["DEPLOYING", "UNHEALTHY"])
def test_a_second_change_while_the_first_settles_costs_no_replica(
    deployer: Deployer, serve: Serve, status: str
) -> None:
    deployer.deploy({"applications": [rag()]})
    serve.status = status
    deployer.deploy({"applications": [rag(log_prompts=True)]})
    assert serve.apps["a"]["args"] == rag()["args"]
    serve.status = "DEPLOY_FAILED"
    deployer.deploy({"applications": [rag(log_prompts=False, default_model="base")]})
    assert serve.apps["a"]["args"] != rag()["args"]


def test_limits_that_change_while_it_runs_are_serves_too(deployer: Deployer, serve: Serve) -> None:
    deployer.deploy({"applications": [rag()]})
    deployer.deploy({"applications": [rag(limits={"max_ongoing_requests": 400, "timeout_s": 600})]})
    told = options(serve.apps["a"])
    assert {name: each["graceful_shutdown_timeout_s"] for name, each in told.items()} == {
        "Ingress": 600, "Retriever": 600, "LLM": 600
    }  # fmt: skip
    assert told["Ingress"]["max_ongoing_requests"] > 400
    # Serve's own words for them.
    for each in serve.apps["a"]["deployments"]:
        DeploymentSchema.model_validate(each)


@pytest.mark.parametrize(
    "changed",
    [
        rag(model="other"),
        rag(retriever={"collection": "others"}),
        rag(cache={"embeddings": 5}),
        rag("/elsewhere"),
        rag(retriever={}),
        {**rag(), "import_path": "mine:build"},
        {**rag(), "deployments": [{"name": "LLM", "num_replicas": 2}]},
    ],
)
def test_everything_else_is_deployed_anew(deployer: Deployer, serve: Serve, changed: dict[str, Any]) -> None:
    deployer.deploy({"applications": [rag()]})
    deployer.deploy({"applications": [changed]})
    assert serve.apps["a"] == changed


def adapter(folder: Path, *, rank: int = 8) -> dict[str, str]:
    """An adapter's entry; its files are whole, and as good as empty."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return {"name": folder.name, "uri": str(folder)}


def test_adapters_come_and_go_without_new_replicas(deployer: Deployer, serve: Serve, tmp_path: Path) -> None:
    serve.max_rank = 16
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two", rank=16)
    deployer.deploy({"applications": [rag(adapters=[one])]})
    first = serve.apps["a"]
    for adapters in ([one, two], [two], [], [one]):
        default = adapters[-1]["name"] if adapters else None
        deployer.deploy({"applications": [rag(adapters=adapters, default_model=default)]})
        changed = serve.apps["a"]
        assert changed["args"] == first["args"]
        told = options(changed)
        ingress = told["Ingress"]["user_config"]
        assert (ingress["adapters"], ingress["default_model"]) == (adapters, default)
        uris = {each["name"]: each["uri"] for each in adapters}
        # A replica that starts later goes on without one that doesn't load, as the others do.
        assert told["LLM"]["user_config"] == {"adapters": uris, "max_rank": 16, "required": False}


@pytest.mark.parametrize("max_rank", [None, 0, 8])
def test_adapters_without_room_for_them_cost_new_replicas(
    deployer: Deployer, serve: Serve, tmp_path: Path, max_rank: int | None
) -> None:
    """Of an application that can't be told, that was started without LoRA, or for smaller ones."""
    serve.max_rank = max_rank
    deployer.deploy({"applications": [rag()]})
    changed = rag(adapters=[adapter(tmp_path / "one", rank=9)])
    deployer.deploy({"applications": [changed]})
    assert serve.apps["a"] == changed


def test_a_broken_adapter_is_refused_before_anything_changes(deployer: Deployer, serve: Serve, tmp_path: Path) -> None:
    serve.max_rank = 16
    deployer.deploy({"applications": [rag()]})
    puts = len(serve.puts)
    whole = adapter(tmp_path / "one")
    (tmp_path / "one" / "adapter_config.json").write_text("{}")
    for broken, error in (
        (whole, ModelError),
        ({"name": "two", "uri": str(tmp_path)}, ModelError),
        ({"name": "three", "uri": str(tmp_path / "none")}, NotFoundError),
        ({"name": "four", "uri": "fsspec+memory://none/here"}, NotFoundError),
    ):
        with pytest.raises(error):
            deployer.deploy({"applications": [rag(adapters=[broken])]})
    assert len(serve.puts) == puts


def test_what_does_not_run_is_deployed_anew(deployer: Deployer, serve: Serve) -> None:
    changed = rag(log_prompts=True)
    deployer.deploy({"applications": [rag()]})
    serve.status = "DEPLOY_FAILED"
    deployer.deploy({"applications": [changed]})
    assert serve.apps["a"] == changed


def test_the_cluster_says_where_serve_listens(deployer: Deployer, serve: Serve) -> None:
    deployer.deploy({"applications": [app("a")]})
    assert serve.puts[0]["http_options"] == {"host": "127.0.0.1", "port": 3}


def test_two_applications_on_one_route_are_refused_before_anything_changes(deployer: Deployer, serve: Serve) -> None:
    deployer.deploy({"applications": [app("a", "/x")]})
    with pytest.raises(InputError, match="two applications have the route /x"):
        deployer.deploy({"applications": [app("b", "/x")]})
    assert list(serve.apps) == ["a"]


def test_an_artifact_is_pinned_so_that_a_newer_one_is_deployed(
    cluster: Cluster, deployer: Deployer, serve: Serve
) -> None:
    with pytest.raises(NotFoundError, match="no artifact artifact:tuned"):
        deployer.deploy({"applications": [app("a", uri="artifact:tuned")]})
    folder = cluster.storage / "artifacts" / "tuned" / "tuned-1"
    folder.mkdir(parents=True)
    write_manifest(folder, name="tuned", id="tuned-1", type="adapter", meta={})
    deployer.deploy({"applications": [app("a", uris=["artifact:tuned", "/local", "artifact:other@x"])]})
    assert serve.apps["a"]["args"]["uris"] == ["artifact:tuned@tuned-1", "/local", "artifact:other@x"]


def test_an_application_that_is_being_deleted_is_not_deployed_again() -> None:
    current = {"applications": {"old": {"status": "DELETING", "deployed_app_config": app("old")}}}
    assert [config["name"] for config in merged(current, {"applications": [app("new")]})["applications"]] == ["new"]


def serving(status: str, *, message: str = "", proxies: tuple[str, ...] = ("HEALTHY",)) -> dict[str, Any]:
    deployments = {"LLM": {"status": "UPDATING", "message": message, "replicas": [{"state": "RUNNING"}]}}
    details = {
        "status": status,
        "message": "",
        "deployments": deployments,
        "route_prefix": "/a",
        "last_deployed_time_s": 5,
    }
    return {"applications": {"a": details}, "proxies": {str(n): {"status": proxy} for n, proxy in enumerate(proxies)}}


TRACEBACK = """The deployment failed to start 1 times. Error:
ray::LLM.__init__()
Traceback (most recent call last):
  File "x.py", line 1, in build
tandem.errors.ModelError: /m: a model path without weights"""


@pytest.mark.parametrize(
    ("current", "verdict", "message"),
    [
        (serving("RUNNING"), "running", ""),
        (serving("DEPLOYING"), "waiting", ""),
        # Serve goes on trying for minutes; the exception doesn't change.
        (
            serving("DEPLOYING", message=TRACEBACK),
            "failed",
            "tandem.errors.ModelError: /m: a model path without weights",
        ),
        (serving("DEPLOY_FAILED"), "failed", ""),
        # RUNNING, and nobody can reach it.
        (serving("RUNNING", proxies=("UNHEALTHY",)), "waiting", "Ray Serve's HTTP proxy is UNHEALTHY"),
    ],
)
def test_the_verdict_is_not_serves_word_alone(current: dict[str, Any], verdict: str, message: str) -> None:
    status = judge(current, "a", "http://127.0.0.1:8000")
    assert (status.verdict, status.message) == (verdict, message)
    assert (status.url, status.deployed_at, status.replicas) == ("http://127.0.0.1:8000/a", 5.0, {"LLM": 1})


def test_a_plain_message_is_its_first_line() -> None:
    assert cause_line("\nwaiting for replicas\nmore") == "waiting for replicas"
    assert cause_line("") == ""


def test_what_the_dashboard_answers_becomes_the_right_error(cluster: Cluster) -> None:
    def answering(respond: Any) -> HttpRayJobs:
        return HttpRayJobs(cluster, transport=httpx.MockTransport(respond))

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(AuthError, match="refuses our token"):
        answering(lambda _: httpx.Response(403)).cpus()
    assert answering(broken).cpus() is None
    assert answering(broken).observe("x.1").status == "UNREACHABLE"
    assert answering(lambda _: httpx.Response(404)).observe("x.1").status == "MISSING"
    assert answering(lambda _: httpx.Response(500)).observe("x.1").status == "UNREACHABLE"
    with pytest.raises(UnreachableError):
        answering(lambda _: httpx.Response(500, text="No available agent")).submit("x.1", "exec true", {}, {})
    # The call before this one had been heard after all.
    answering(lambda _: httpx.Response(500, text="ValueError: Job with submission_id x.1 already exists.")).submit(
        "x.1", "exec true", {}, {}
    )
