"""The whole story through the real command line, server, Ray, DeepSpeed, embedded Qdrant and Serve, on tiny weights.

The tests run in order: each stands on what the one before left, as a user's session does.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml
from stand_ins.command_line import until
from stand_ins.documents import eventually
from stand_ins.prometheus import (
    ALERTS,
    CONFIG,
    DASHBOARDS,
    Prometheus,
    alerts,
    metrics_in,
    missing,
    panels,
    prometheus,
)

from tandem.orchestrator.local import Marks
from tandem.orchestrator.processes import marked

from .conftest import HARBOURS, Home

pytestmark = pytest.mark.timeout(1200)


def cluster(home: Home) -> dict[str, object]:
    data: dict[str, object] = json.loads((home.path / ".tandem" / "cluster.json").read_text())
    return data


def client(home: Home) -> openai.OpenAI:
    key = Path(str(cluster(home)["api_key_file"])).read_text().strip()
    return openai.OpenAI(base_url=f"{cluster(home)['endpoint_url']}/v1", api_key=key, max_retries=0)


def test_nothing_is_up_yet(home: Home) -> None:
    assert "tandem up" in home.tandem("ps", status=3)


def test_up_and_status(home: Home) -> None:
    home.tandem("up", "cluster.yaml")
    home.tandem("up", "cluster.yaml")  # again is no error
    assert "harbours" not in home.tandem("ps")
    status = home.json("status")
    assert isinstance(status, dict)
    for name in ("ray-token", "api-key"):
        assert (home.path / ".tandem" / name).stat().st_mode & 0o077 == 0


def test_index(home: Home) -> None:
    home.tandem("submit", "index.yaml", "--follow")
    (job,) = home.json("ps")  # type: ignore[misc]
    assert (job["kind"], job["state"]) == ("index", "SUCCEEDED")


def test_index_again_is_the_same_job(home: Home) -> None:
    home.tandem("submit", "index.yaml")
    assert len(home.json("ps")) == 1  # type: ignore[arg-type]


def test_the_index_is_listed_and_checked(home: Home) -> None:
    (entry,) = home.json("index", "ls")  # type: ignore[misc]
    assert (entry["name"], entry["current"]) == ("harbours", True)
    checked = home.json("index", "check", "harbours", "--top-k", "2")
    assert isinstance(checked, dict)
    assert (checked["points"], checked["good"]) == (entry["points"], True)
    assert "no earlier collection" in home.tandem("index", "rollback", "harbours", status=2)


def test_killed_client_leaves_the_job_running(home: Home) -> None:
    follower = home.popen("submit", "finetune.yaml", "--follow")
    deadline = time.monotonic() + 600
    job: dict[str, str] = {}
    while job.get("state") not in ("RUNNING", "SUCCEEDED"):
        assert time.monotonic() < deadline, job
        job = next((j for j in home.json("ps") if j["kind"] == "finetune"), {})  # type: ignore[attr-defined]
    assert job["state"] == "RUNNING"
    follower.kill()
    follower.wait()
    log = home.tandem("logs", job["id"], "-f")
    assert "step" in log
    home.tandem("wait", job["id"])
    shown = home.json("show", job["id"])
    assert isinstance(shown, dict)
    assert shown["state"] == "SUCCEEDED"


def test_adapter_is_safetensors_with_a_manifest(home: Home) -> None:
    (manifest_path,) = (home.path / ".tandem/artifacts/harbours-raft").glob("*/manifest.json")
    manifest = json.loads(manifest_path.read_text())
    assert manifest["type"] == "adapter"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(manifest["files"])
    assert manifest["meta"]["retrieval"]["collection"] == "harbours"


def test_compare(home: Home) -> None:
    home.tandem("submit", "compare.yaml", "--follow")
    job = next(j for j in home.json("ps") if j["kind"] == "compare")  # type: ignore[attr-defined]
    report = home.json("report", job["id"])
    assert isinstance(report, dict)
    assert report["schema"] == 1
    assert set(report["arms"]) == {"base", "rag", "raft", "oracle"}
    assert all(arm["n"] == 9 and arm["failures"] == 0 for arm in report["arms"].values())
    assert report["arms"]["rag"]["metrics"]["recall_at_k"] > 0
    folder = next((home.path / ".tandem/artifacts/harbours-compare").iterdir())
    assert {"report.html", "report.json", "report.md", "items.parquet", "manifest.json"} <= {
        p.name for p in folder.iterdir()
    }


def test_deploy_and_ask_as_openai_does(home: Home) -> None:
    home.write(
        "rag.yaml",
        json.dumps(
            {
                "applications": [
                    {
                        "name": "rag",
                        "route_prefix": "/",
                        "import_path": "tandem.serving.app:build",
                        "args": {
                            "kind": "rag",
                            "name": "harbours",
                            "model": str(home.path / "model"),
                            "adapters": [{"name": "harbours-raft", "uri": "artifact:harbours-raft"}],
                            "retriever": {"collection": "harbours", "top_k": 2},
                            "engine": {"name": "transformers", "max_model_len": 1024},
                        },
                    }
                ]
            }
        ),
    )
    home.tandem("deploy", "rag.yaml")
    api = client(home)
    assert {"harbours", "harbours-raft"} <= {model.id for model in api.models.list()}
    answer = api.chat.completions.create(
        model="harbours", messages=[{"role": "user", "content": "How deep is the harbour of Corran?"}], max_tokens=8
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    citations = answer.model_dump()["citations"]
    assert len(citations) == 2
    for citation in citations:
        assert citation["text"] in (home.path / "docs" / citation["source"]).read_text()
    stream = api.chat.completions.create(
        model="harbours-raft", messages=[{"role": "user", "content": "Where?"}], max_tokens=8, stream=True
    )
    chunks = list(stream)
    assert chunks[-1].model_dump()["citations"]
    asked = home.json("ask", "How deep is Corran?")
    assert isinstance(asked, dict)
    assert [c["id"] for c in asked["citations"]] != []


def replicas(home: Home) -> set[int]:
    mark = Marks.of(home.path / ".tandem").ray
    return {p.pid for p in marked(mark) if "ServeReplica:rag" in "".join(p.cmdline()[:1])}


def test_what_can_change_while_it_runs_costs_no_replica(home: Home) -> None:
    before = replicas(home)
    assert len(before) == 3
    changes = ("retriever.top_k=1", "limits.max_ongoing_requests=100", "limits.timeout_s=200")
    home.tandem("deploy", "rag.yaml", *(f"applications.0.args.{change}" for change in changes))
    asked = home.json("ask", "How deep is Corran?")
    assert isinstance(asked, dict)
    assert len(asked["citations"]) == 1
    assert replicas(home) == before


def test_a_compared_version_is_tried_promoted_and_taken_back_while_it_serves(home: Home) -> None:
    api = client(home)
    asked: list[tuple[float, str]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            question = [{"role": "user", "content": f"How deep is Corran, {len(asked)}?"}]
            answer = api.chat.completions.create(model="harbours", messages=question, max_tokens=2)  # type: ignore[arg-type]
            asked.append((time.monotonic(), answer.model))

    def heard_since(begun: float, models: set[str]) -> bool:
        return {model for at, model in asked if at > begun} == models

    before = replicas(home)
    with ThreadPoolExecutor(1) as pool:
        # Whatever fails meanwhile is raised at the end.
        asking = pool.submit(ask)
        try:
            (version,) = home.json("models")  # type: ignore[misc]
            assert (version["name"], version["serving"]) == ("harbours-raft", [{"app": "rag", "share": 0.0}])
            change = home.json("promote", "harbours-raft", "--canary", "0.5")
            assert isinstance(change, dict)
            begun = time.monotonic()
            assert change["standing"]["against"]["what"] == "the base model"
            assert eventually(lambda: heard_since(begun, {"harbours", "harbours-raft-canary"}), within_s=60)
            home.tandem("promote", "harbours-raft")
            begun = time.monotonic()
            assert home.json("models")[0]["serving"] == [{"app": "rag", "share": 1.0}]  # type: ignore[index]
            assert eventually(lambda: heard_since(begun, {"harbours"}), within_s=60)
            # Also where Ray Serve is still busy with the change before.
            home.tandem("rollback", "harbours-raft", "--no-wait")
            home.tandem("promote", "harbours-raft", "--no-wait")
            assert "the base model answers; before: harbours-raft-" in home.tandem("rollback", "harbours-raft")
        finally:
            over.set()
        asking.result(timeout=60)
    acts = [release["act"] for release in home.json("releases", "rag")]  # type: ignore[attr-defined]
    assert acts[:5] == ["rollback", "promote", "rollback", "promote", "canary"]
    assert home.json("models")[0]["serving"] == [{"app": "rag", "share": 0.0}]  # type: ignore[index]
    assert replicas(home) == before


def test_endpoint_refuses_a_wrong_key(home: Home) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(home).with_options(api_key="wrong").models.list()
    assert httpx.get(f"{cluster(home)['endpoint_url']}/healthz").status_code == 200


def any_value(running: Prometheus, queries: list[str]) -> bool:
    return any(map(running.value, queries))


# A machine without a GPU, a cache that is off, and a run that has ended export none.
NOT_HERE = ("ray_node_gpus_utilization", "ray_tandem_endpoint_answer_cache_hits_total", "ray_tandem_training_")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_prometheus_sees_server_cluster_and_endpoint(home: Home, tmp_path: Path) -> None:
    home.write(".tandem/prometheus-key", home.tandem("keys", "add", "prometheus", "--role", "viewer"))
    text = CONFIG.read_text().replace("../../.tandem", str(home.path / ".tandem")).replace("15s", "1s")
    text = text.replace("127.0.0.1:8400", str(cluster(home)["server_url"]).removeprefix("http://"))
    text = text.replace("http://127.0.0.1:8265", str(cluster(home)["dashboard_url"]))
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(text) | {"rule_files": [str(ALERTS)]}))
    with prometheus(config, tmp_path / "data") as running:
        until(lambda: {"tandem", "ray"} <= running.targets().keys())
        until(lambda: {health for targets in running.targets().values() for health, _ in targets} == {"up"})
        until(lambda: running.value("ray_tandem_endpoint_in_flight"))
        home.tandem("ask", "How deep is Corran?")
        until(lambda: running.value("increase(ray_tandem_endpoint_requests_total[1m]) > 0"))
        asked = [rule["expr"] for rule in alerts().values()]
        for path in DASHBOARDS:
            for title, queries in panels(path).items():
                asked += queries
                there = not any(name.startswith(NOT_HERE) for query in queries for name in metrics_in(query))
                # Of what was done in the last hour Prometheus has seen nothing.
                if there and not title.endswith("in the last hour"):
                    until(partial(any_value, running, queries))
        names = {name for query in asked for name in metrics_in(query) if not name.startswith(NOT_HERE)}
        assert {name for name in names if not running.value(name)} == set()
        rules = [rule for group in running.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in rules} == set(alerts())
        assert {rule["lastError"] for rule in rules if rule["health"] == "err"} == set()


def test_compare_on_own_documents_without_a_yaml_file(home: Home) -> None:
    report = home.json(
        "compare", "--docs", "docs", "--qa", "qa.jsonl", "--name", "own", "--model", "model", "--embedder", "embedder",
        "--adapter", "artifact:harbours-raft",
    )  # fmt: skip
    assert isinstance(report, dict)
    assert report["verdict"]["reason"]
    assert set(report["arms"]) >= {"base", "rag", "raft"}
    assert sum(len(v) for v in HARBOURS.values()) >= report["arms"]["rag"]["n"] > 0
    routes = cluster(home)["endpoint_url"]
    assert httpx.get(f"{routes}/own/healthz").status_code == 200


def test_wrong_token_is_told(home: Home) -> None:
    key = home.path / ".tandem" / "api-key"
    right = key.read_text()
    key.write_text("wrong\n")
    try:
        assert "key" in home.tandem("ps", status=3)
    finally:
        key.write_text(right)


def test_failed_job_says_why(home: Home) -> None:
    home.write("broken.jsonl", '{"question": "q"}\nnot json\n')
    said = home.tandem("submit", "compare.yaml", "name=broken", "eval=broken.jsonl", "--follow", status=1)
    assert "quarantine" in said


def test_down_leaves_nothing(home: Home) -> None:
    pids = [int(pid) for pid in cluster(home)["pids"].values()]  # type: ignore[attr-defined]
    home.tandem("down")
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    left = [
        p.info for p in psutil.process_iter(["pid", "cmdline"]) if str(home.path) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []
    assert "tandem up" in home.tandem("ps", status=3)
