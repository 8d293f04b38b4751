"""A file that is deployed again, and what was promoted meanwhile."""

from __future__ import annotations

from typing import Any

from tandem.orchestrator.merging import merged_with
from tandem.specs.rag import RagSpec

TUNED = {"name": "tuned", "uri": "artifact:tuned"}


def spec(**fields: Any) -> RagSpec:
    return RagSpec.model_validate(
        {"kind": "rag", "name": "ask", "model": "m", "retriever": {"collection": "c"}, **fields}
    )


def at(version: str, **fields: Any) -> RagSpec:
    """As it is served: with a version."""
    return spec(adapters=[{**TUNED, "uri": f"artifact:tuned@{version}"}], default_model="tuned", **fields)


FILE = spec(adapters=[TUNED], default_model="tuned")


def test_a_file_that_names_no_version_has_no_opinion_of_it() -> None:
    # The version is somebody else's to fill in.
    assert merged_with(FILE, FILE, at("v-1")) == (FILE, [], [])


def test_what_was_promoted_stays_where_the_file_says_what_it_said() -> None:
    plain = spec()
    there = at("v-1", prompt={"system": "Be brief."})
    changed = spec(limits={"max_tokens": 7})
    whole, kept, lost = merged_with(changed, plain, there)
    assert (kept, lost) == (["adapters", "default_model", "prompt"], [])
    assert whole == at("v-1", prompt={"system": "Be brief."}, limits={"max_tokens": 7})
    # Nobody wrote down what it said: then it said the same.
    assert merged_with(changed, None, there)[0] == whole


def test_a_canary_goes_on() -> None:
    tried = {"name": "tuned-canary", "uri": "artifact:tuned@v-2"}
    there = spec(
        adapters=[{**TUNED, "uri": "artifact:tuned@v-1"}, tried], default_model="tuned",
        canary={"model": "tuned-canary", "share": 0.1},
    )  # fmt: skip
    whole, kept, lost = merged_with(FILE, FILE, there)
    assert (whole, kept, lost) == (there, ["adapters", "canary"], [])


def test_what_the_file_changes_is_as_the_file_says() -> None:
    file = spec(adapters=[TUNED], default_model="tuned", prompt={"system": "Be kind."})
    whole, kept, lost = merged_with(file, FILE, at("v-1", prompt={"system": "Be brief."}))
    assert (whole.prompt.system, kept, lost) == ("Be kind.", [], ["prompt"])
    named = at("v-7")
    assert merged_with(named, FILE, at("v-1")) == (named, [], ["adapters"])


def test_a_default_does_not_stay_without_its_adapter() -> None:
    other = spec(adapters=[{"name": "other", "uri": "artifact:other"}])
    whole, kept, lost = merged_with(other, spec(), at("v-1"))
    assert (whole, kept, lost) == (other, [], ["adapters", "default_model"])
