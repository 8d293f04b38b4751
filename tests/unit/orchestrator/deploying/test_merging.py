"""A file that is deployed again, and what was promoted meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tandem.orchestrator.deploying.merging import merged_with
from tandem.specs.rag import RagSpec

MODELS = {"tuned", "whole"}
PLACES = {"model", "adapters", "default_model", "canary", "prompt"}
TUNED = {"name": "tuned", "uri": "artifact:tuned"}


def spec(**fields: Any) -> RagSpec:
    return RagSpec.model_validate(
        {"kind": "rag", "name": "ask", "model": "m", "retriever": {"collection": "c"}, **fields}
    )


def at(version: str, **fields: Any) -> RagSpec:
    """As it is served: with a version."""
    return spec(adapters=[{**TUNED, "uri": f"artifact:tuned@{version}"}], default_model="tuned", **fields)


FILE = spec(adapters=[TUNED], default_model="tuned")
Merged = tuple[RagSpec, list[str], list[str]]


def merged(file: RagSpec, earlier: RagSpec | None, present: RagSpec, touched: Collection[str] = PLACES) -> Merged:
    return merged_with(file, earlier, present, MODELS, touched)


def test_a_file_that_names_no_version_has_no_opinion_of_it() -> None:
    assert merged(FILE, FILE, at("v-1")) == (at("v-1"), [], [])
    # Of what nobody has promoted it means the newest.
    other = {"name": "other", "uri": "artifact:other"}
    file = spec(adapters=[TUNED, other], default_model="tuned")
    assert merged(file, FILE, at("v-1"))[0].adapters[1].uri == "artifact:other"


def test_each_adapter_of_a_model_has_a_version_of_its_own() -> None:
    stable = {"name": "stable", "uri": "artifact:tuned@v-0"}
    file = spec(adapters=[TUNED, stable], default_model="tuned")
    there = spec(adapters=[{**TUNED, "uri": "artifact:tuned@v-20"}, stable], default_model="tuned")
    assert merged(file, file, there) == (there, [], [])


def test_what_was_promoted_stays_where_the_file_says_what_it_said() -> None:
    plain = spec()
    there = at("v-1", prompt={"system": "Be brief."})
    changed = spec(limits={"max_tokens": 7})
    whole, kept, lost = merged(changed, plain, there)
    assert (kept, lost) == (["adapters", "default_model", "prompt"], [])
    assert whole == at("v-1", prompt={"system": "Be brief."}, limits={"max_tokens": 7})
    # Nobody wrote down what it said: then it said the same.
    assert merged(changed, None, there)[0] == whole
    # What no promotion has touched is the file's.
    assert merged(changed, None, there, {"adapters", "default_model"})[0].prompt == plain.prompt


def test_a_canary_goes_on() -> None:
    tried = {"name": "tuned-canary", "uri": "artifact:tuned@v-2"}
    there = spec(
        adapters=[{**TUNED, "uri": "artifact:tuned@v-1"}, tried], default_model="tuned",
        canary={"model": "tuned-canary", "share": 0.1},
    )  # fmt: skip
    assert merged(FILE, FILE, there) == (there, ["adapters", "canary"], [])


def test_what_the_file_changes_is_as_the_file_says() -> None:
    file = spec(adapters=[TUNED], default_model="tuned", prompt={"system": "Be kind."})
    whole, kept, lost = merged(file, FILE, at("v-1", prompt={"system": "Be brief."}))
    assert (whole.prompt.system, kept, lost) == ("Be kind.", [], ["prompt"])
    named = at("v-7")
    assert merged(named, FILE, at("v-1")) == (named, [], ["adapters"])


def test_adapters_come_and_go_one_by_one() -> None:
    own = {"name": "own", "uri": "/own"}
    whole, kept, lost = merged(spec(adapters=[own]), spec(), at("v-1"))
    assert [each.name for each in whole.adapters] == ["tuned", "own"]
    assert (whole.default_model, kept, lost) == ("tuned", ["adapters", "default_model"], ["adapters"])
    # And one that the file takes out is gone, with its default.
    gone, kept, lost = merged(spec(), FILE, at("v-1"))
    assert (gone, kept, lost) == (spec(), [], ["adapters", "default_model"])


def test_adapters_do_not_stay_over_another_base_model() -> None:
    other = spec(model="other")
    assert merged(other, spec(), at("v-1")) == (other, [], ["model", "adapters", "default_model"])
    # Nor do a file's adapters come over a whole model that was promoted.
    whole = spec(model="artifact:whole@w-1")
    assert merged(spec(limits={"max_tokens": 7}), spec(), whole)[0].model == "artifact:whole@w-1"
    with_adapter = spec(adapters=[{"name": "own", "uri": "/own"}])
    assert merged(with_adapter, spec(), whole) == (with_adapter, [], ["model", "adapters"])


def test_a_base_model_without_a_version_is_the_one_that_is_there() -> None:
    file = spec(model="artifact:whole", limits={"max_tokens": 7})
    there = at("v-1", model="artifact:whole@w-1")
    assert merged(file, spec(model="artifact:whole"), there)[0] == at(
        "v-1", model="artifact:whole@w-1", limits={"max_tokens": 7}
    )


def test_a_default_does_not_stay_without_its_adapter() -> None:
    file = spec(adapters=[{"name": "other", "uri": "/other"}])
    whole, _, lost = merged(file, FILE, at("v-1"))
    assert (whole, lost) == (file, ["adapters", "default_model"])
