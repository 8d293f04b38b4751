"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from tandem.cli.main import app
from tandem.orchestrator.states import Reason, State
from tandem.specs.combinations import as_markdown
from tandem.specs.loading import validate_file

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_of_this_repository(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)", document.read_text())
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = document.read_text()
    used = set(re.findall(r"(?:^|`|\$ |bin/)tandem ([a-z]+)", text, re.MULTILINE))
    assert used <= known
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_the_page_for_people_on_call_knows_every_state_and_every_reason_of_an_end() -> None:
    text = (ROOT / "docs" / "on-call.md").read_text()
    on_the_way = {Reason.SUBMITTED, Reason.ADMITTED, Reason.DRIVER_RUNS, Reason.DONE}
    assert [word for word in [*State, *(set(Reason) - on_the_way)] if str(word) not in text] == []


def test_the_page_on_fine_tuning_has_the_table_of_combinations_as_it_is() -> None:
    text = (ROOT / "docs" / "finetuning.md").read_text()
    shown = text.partition("<!-- combinations -->")[2].partition("<!-- /combinations -->")[0]
    assert shown.strip() == as_markdown()


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_job_is_sound_and_begins_with_its_command_and_one_override(path: Path) -> None:
    assert validate_file(path) == []
    relative = path.relative_to(ROOT)
    first, second = path.read_text().splitlines()[:2]
    assert re.fullmatch(rf"# tandem \w+ {relative}.*", first)
    command = re.fullmatch(rf"# tandem \w+ {relative} (.*)", second)
    assert command
    overrides = [word for word in command[1].split() if "=" in word]
    assert overrides
    assert validate_file(path, overrides) == []
