"""What may take over from what is live, what becomes of the endpoint, and the way back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import text
from stand_ins.models import BASE, FAIR, GOOD, MIDDLING, POOR, PROMPT, Bench, compare, index, make_model
from stand_ins.world import World

from tandem.errors import ConflictError, InputError, ModelError, NotFoundError, NotPromotedError, UnreachableError
from tandem.orchestrator.deploying.releases import Act
from tandem.orchestrator.promotion.listing import Serving, list_models


@pytest.fixture
def bench(world: World) -> Bench:
    made = Bench(world)
    made.deploy()
    return made


def test_the_first_version_takes_over_from_the_base_model(bench: Bench) -> None:
    bench.version("v-1")
    change = bench.promoter.promote("tuned", None, by="grace")
    assert bench.answering() == "artifact:tuned@v-1"
    assert [each.name for each in bench.spec().adapters] == ["tuned"]
    assert (change.app, change.version, change.was, change.changed) == (
        "rag", "v-1", None, ("adapters", "default_model"),
    )  # fmt: skip
    assert change.standing is not None
    assert (change.standing.report, change.standing.arm, change.standing.n) == ("c-v-1", "raft", 60)
    against = change.standing.against
    assert against is not None
    assert against.what == "the base model"
    assert 0.3 < against.ci95[0] < against.diff < against.ci95[1] < 0.9
    first, deployed = bench.deployer.releases.of("rag")
    assert (first.act, first.by, first.facts["forced"], first.facts["standing"]["report"]) == (
        Act.PROMOTE, "grace", False, "c-v-1",
    )  # fmt: skip
    assert (deployed.act, deployed.by, deployed.spec["adapters"]) == (Act.DEPLOY, "ada", [])


def test_what_answers_already_is_not_promoted_again(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    with pytest.raises(ConflictError, match="v-1 answers there already"):
        bench.promoter.promote("tuned", "v-1")


def test_what_did_worse_is_refused(bench: Bench) -> None:
    bench.version("v-1", skill=POOR)
    with pytest.raises(NotPromotedError, match=r"v-1 may not take over: it is worse: em -0\.\d+ .* the base model"):
        bench.promoter.promote("tuned", None)
    assert bench.answering() == BASE
    forced = bench.promoter.promote("tuned", None, force=True, by="grace")
    assert bench.answering() == "artifact:tuned@v-1"
    assert len(forced.refusals) == 1
    assert bench.deployer.releases.of("rag")[0].facts["forced"] is True


def test_what_nobody_compared_is_refused(bench: Bench) -> None:
    make_model(bench.storage, "tuned", "v-1")
    # Asked without passages alone: as no endpoint asks.
    compare(bench.storage, "c-1", skill={"base": POOR, "tuned": GOOD}, adapter="artifact:tuned@v-1")
    with pytest.raises(NotPromotedError, match="no comparison has asked it with passages"):
        bench.promoter.promote("tuned", None)


@pytest.mark.parametrize(("skill", "may"), [(GOOD, True), (POOR, False)])
def test_a_version_is_held_against_the_one_that_is_live(bench: Bench, skill: Any, may: bool) -> None:
    bench.version("v-1", skill=MIDDLING)
    bench.promoter.promote("tuned", None)
    bench.version("v-20", skill=skill)
    # Two comparisons of the same questions: tests are paired over both.
    change = bench.promoter.promote("tuned", None, dry_run=True)
    assert change.standing is not None
    assert change.standing.against is not None
    assert change.standing.against.what == "v-1"
    assert (change.standing.against.diff > 0, change.refusals == ()) == (may, may)
    assert bench.answering() == "artifact:tuned@v-1"
    if may:
        assert bench.promoter.promote("tuned", "v-20").was == "v-1"
        assert bench.answering() == "artifact:tuned@v-20"
        assert [each.name for each in bench.spec().adapters] == ["tuned"]


def test_both_in_one_comparison(bench: Bench) -> None:
    bench.version("v-1", skill=MIDDLING)
    bench.promoter.promote("tuned", None)
    make_model(bench.storage, "tuned", "v-2")
    asked = {"tuned_rag": "tuned@v-1", "raft": "tuned@v-2"}
    compare(bench.storage, "both", skill={"tuned_rag": MIDDLING, "raft": GOOD}, adapters=asked, questions="77")
    against = bench.promoter.promote("tuned", "v-2").standing.against  # type: ignore[union-attr]
    assert against is not None
    assert (against.what, against.report) == ("v-1", "both")
    assert against.diff > 0


def test_other_questions_say_nothing_of_what_is_live(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    bench.version("v-2", questions="77")
    with pytest.raises(NotPromotedError, match=r"no comparison has asked both it and what answers now \(v-1\)"):
        bench.promoter.promote("tuned", "v-2")


def test_a_comparison_must_have_asked_as_the_endpoint_does(bench: Bench) -> None:
    other = {**PROMPT, "system": "Be brief."}
    bench.version("v-1", collection="elsewhere", top_k=5, prompt=other)
    change = bench.promoter.promote("tuned", None, dry_run=True)
    assert change.refusals == (
        "c-v-1 searched elsewhere, the application searches django",
        "c-v-1 asked with another prompt than the application would",
    )
    assert change.standing is not None
    assert (change.standing.faults, change.standing.against) == (change.refusals, None)
    # A canary is how to find out.
    assert bench.promoter.promote("tuned", None, share=0.1, dry_run=True).notes == change.refusals


def test_what_has_changed_since_is_told(bench: Bench) -> None:
    index(bench.storage, "i-1")
    bench.version("v-1", index="i-1", skill=FAIR, top_k=5)
    assert bench.promoter.promote("tuned", None).notes == ("c-v-1 showed 5 passages, the application shows 3",)
    index(bench.storage, "i-2")
    bench.version("v-20", index="i-1", top_k=5)
    assert "django has been indexed anew since c-v-20" in bench.promoter.promote("tuned", None).notes
    (note,) = bench.promoter.rollback("tuned").notes
    assert "`tandem index rollback django` goes back" in note


def test_the_prompt_goes_along_and_comes_back(bench: Bench) -> None:
    other = {**PROMPT, "system": "Be brief."}
    make_model(bench.storage, "tuned", "v-1", prompt=other)
    compare(bench.storage, "c-1", skill={"rag": MIDDLING, "raft": GOOD}, adapters={"raft": "tuned@v-1"}, prompt=other)
    assert "prompt" in bench.promoter.promote("tuned", None).changed
    assert bench.spec().prompt.system == "Be brief."
    # One application has one prompt: another model beside it was trained with its own.
    bench.version("w-1", name="second")
    refusals = bench.promoter.promote("second", None, dry_run=True).refusals
    assert refusals[0] == "its prompt is another than that of tuned, and an application has one"
    bench.promoter.rollback("tuned")
    assert bench.spec().prompt.canonical() == PROMPT
    assert bench.answering() == BASE


def test_a_canary_answers_a_share_and_then_all(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    make_model(bench.storage, "tuned", "v-2")
    change = bench.promoter.promote("tuned", "v-2", share=0.25)
    assert change.share == 0.25
    assert "no comparison has asked it" in change.notes[0]
    spec = bench.spec()
    assert bench.answering() == "artifact:tuned@v-1"
    assert {each.name: each.uri for each in spec.adapters} == {
        "tuned": "artifact:tuned@v-1", "tuned-canary": "artifact:tuned@v-2",
    }  # fmt: skip
    assert spec.canary is not None
    assert (spec.canary.model, spec.canary.share) == ("tuned-canary", 0.25)
    listed = {each.version.id: each.serving for each in list_models(bench.storage, bench.deployer.endpoints())}
    assert listed == {"v-1": (Serving("rag", 0.75),), "v-2": (Serving("rag", 0.25),)}
    bench.version("w-1", name="second")
    with pytest.raises(ConflictError, match="tuned-canary is being tried: one at a time"):
        bench.promoter.promote("second", None, share=0.1)
    bench.promoter.promote("tuned", "v-2", share=0.5)
    assert bench.spec().canary.share == 0.5  # type: ignore[union-attr]
    bench.promoter.promote("tuned", "v-2", force=True)
    spec = bench.spec()
    assert (spec.canary, bench.answering()) == (None, "artifact:tuned@v-2")
    assert [each.name for each in spec.adapters] == ["tuned"]
    # The way back leads to what answered, not to the canary.
    assert bench.promoter.rollback("tuned").version == "v-1"
    assert bench.spec().canary is None


def test_a_canary_that_is_known_to_be_worse_or_has_another_prompt_is_refused(bench: Bench) -> None:
    bench.version("v-1", skill=POOR)
    with pytest.raises(NotPromotedError, match="it is worse"):
        bench.promoter.promote("tuned", None, share=0.1)
    make_model(bench.storage, "tuned", "v-2", prompt={**PROMPT, "system": "Be brief."})
    with pytest.raises(NotPromotedError, match="of which there is one for all"):
        bench.promoter.promote("tuned", "v-2", share=0.1)


def test_a_rollback_ends_a_canary_and_nothing_else(bench: Bench) -> None:
    bench.version("v-1")
    before = bench.spec()
    bench.promoter.promote("tuned", None, share=0.1)
    change = bench.promoter.rollback("tuned", by="grace")
    assert (change.was, change.version, change.share) == ("v-1", None, 0.1)
    assert bench.spec() == before


def test_a_rollback_goes_one_version_back_and_the_next_one_further(bench: Bench) -> None:
    for number, skill in ((1, FAIR), (20, GOOD)):
        bench.version(f"v-{number}", skill=skill)
        bench.promoter.promote("tuned", None)
    # What else was changed since stays.
    bench.deploy(limits={"max_tokens": 7})
    assert bench.answering() == "artifact:tuned@v-20"
    for expected, was in (("v-1", "v-20"), (None, "v-1")):
        change = bench.promoter.rollback("tuned", by="grace")
        assert (change.version, change.was) == (expected, was)
        assert bench.answering() == (f"artifact:tuned@{expected}" if expected else BASE)
        assert bench.spec().limits.max_tokens == 7
    with pytest.raises(ConflictError, match="tuned has stood for nothing else here before"):
        bench.promoter.rollback("tuned")
    # Forth again is a promotion, which is judged again.
    bench.promoter.promote("tuned", "v-20")
    assert bench.promoter.rollback("tuned").version is None


def test_an_undeploy_that_ray_serve_refused_forgets_nothing(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    with bench.answer_lost(taken=False), pytest.raises(UnreachableError):
        bench.deployer.undeploy("rag")
    bench.deploy(limits={"max_tokens": 7})
    assert bench.answering() == "artifact:tuned@v-1"
    with bench.answer_lost(taken=True), pytest.raises(UnreachableError):
        bench.deployer.undeploy("rag")
    bench.deploy()
    assert bench.answering() == BASE


def test_what_nobody_wrote_down_is_found_and_gone_back_to(bench: Bench, world: World) -> None:
    with world.records.database.write() as session:
        session.execute(text("DELETE FROM releases"))
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    assert [release.act for release in bench.deployer.releases.of("rag")] == [Act.PROMOTE, Act.FOUND]
    bench.promoter.rollback("tuned")
    assert bench.answering() == BASE


def test_what_was_taken_back_is_not_gone_back_to(bench: Bench) -> None:
    for number, skill in ((1, FAIR), (20, GOOD)):
        bench.version(f"v-{number}", skill=skill)
        bench.promoter.promote("tuned", None)
    bench.promoter.rollback("tuned")
    make_model(bench.storage, "tuned", "v-3")
    bench.promoter.promote("tuned", "v-3", force=True)
    assert bench.promoter.rollback("tuned").version == "v-1"


def test_a_model_that_never_stood_for_anything_else_can_not_go_back(bench: Bench) -> None:
    with pytest.raises(ConflictError, match="tuned has stood for nothing else here before"):
        bench.promoter.rollback("tuned")


def test_a_new_life_of_an_application_begins_with_nothing(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    bench.deployer.undeploy("rag", by="ada")
    bench.deploy()
    assert bench.answering() == BASE
    with pytest.raises(ConflictError, match="nothing else here before"):
        bench.promoter.rollback("tuned")


def test_of_two_models_one_goes_back_and_the_other_stays(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    bench.version("w-1", name="second")
    bench.promoter.promote("second", None, force=True)
    bench.promoter.rollback("tuned")
    assert [each.uri for each in bench.spec().adapters] == ["artifact:second@w-1"]
    assert bench.answering() == "artifact:second@w-1"


def test_a_model_that_was_there_by_its_name_alone_is_so_again(bench: Bench) -> None:
    bench.version("v-1")
    bench.deploy(adapters=[{"name": "tuned", "uri": "artifact:tuned@v-1"}])
    bench.promoter.promote("tuned", None)
    change = bench.promoter.rollback("tuned")
    assert (change.version, change.was, change.answers, change.answered) == ("v-1", "v-1", "the base model", "v-1")
    assert bench.answering() == BASE
    assert [each.uri for each in bench.spec().adapters] == ["artifact:tuned@v-1"]


def test_a_deploy_does_not_undo_what_was_promoted_or_taken_back(bench: Bench) -> None:
    named = {"adapters": [{"name": "tuned", "uri": "artifact:tuned"}], "default_model": "tuned"}
    bench.version("v-1", skill=MIDDLING)
    bench.deploy(**named)
    bench.version("v-20")
    # Nobody has promoted this model yet: the newest, as ever.
    assert bench.deploy(**named) == []
    assert bench.answering() == "artifact:tuned@v-20"
    bench.promoter.rollback("tuned")
    assert bench.deploy(**named) == [
        "rag: tuned stays v-1, as promoted; the newest is v-20: `tandem promote tuned`"
    ]  # fmt: skip
    assert bench.answering() == "artifact:tuned@v-1"
    # Elsewhere nobody has decided anything, and a version can be named.
    bench.deploy("other", **named)
    assert bench.answering("other") == "artifact:tuned@v-20"
    bench.deploy(**{**named, "adapters": [{"name": "tuned", "uri": "artifact:tuned@v-20"}]})
    assert bench.answering() == "artifact:tuned@v-20"


def test_which_endpoint(bench: Bench) -> None:
    bench.version("v-1")
    bench.deploy("other")
    with pytest.raises(InputError, match=r"rag, other could take it .*--app"):
        bench.promoter.promote("tuned", None)
    bench.promoter.promote("tuned", None, app="other")
    assert (bench.answering("other"), bench.answering()) == ("artifact:tuned@v-1", BASE)
    # From then on it is the one that has it.
    assert bench.promoter.rollback("tuned").app == "other"
    with pytest.raises(NotFoundError, match="no endpoint 'third' is deployed"):
        bench.promoter.promote("tuned", None, app="third")
    for app in ("rag", "other"):
        bench.deployer.undeploy(app)
    with pytest.raises(NotFoundError, match="no endpoint is deployed"):
        bench.promoter.promote("tuned", None)


def test_a_whole_model_takes_the_base_models_place(bench: Bench) -> None:
    make_model(bench.storage, "whole", "w-1", type="model")
    compare(bench.storage, "c-1", skill={"rag": MIDDLING})
    compare(bench.storage, "c-2", skill={"rag": GOOD}, model="artifact:whole@w-1")
    with pytest.raises(ConflictError, match="whole is a whole model"):
        bench.promoter.promote("whole", None, share=0.1)
    change = bench.promoter.promote("whole", None)
    assert (change.changed, bench.spec().model) == (("model",), "artifact:whole@w-1")
    assert change.standing is not None
    assert change.standing.against is not None
    assert (change.standing.arm, change.standing.against.what) == ("rag", BASE)
    assert bench.promoter.rollback("whole").version is None
    assert bench.spec().model == BASE
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    with pytest.raises(ConflictError, match="tuned: trained over"):
        bench.promoter.promote("whole", None)


def test_what_can_not_answer_is_refused_whatever_is_forced(bench: Bench, tmp_path: Path) -> None:
    make_model(bench.storage, "news", "n-1", type="model", task="classification")
    with pytest.raises(ModelError, match="made for classification: an endpoint answers questions"):
        bench.promoter.promote("news", None, force=True)
    index(bench.storage, "i-1")
    with pytest.raises(ModelError, match="an artifact of type 'index', not a model"):
        bench.promoter.promote("docs", None, force=True)
    with pytest.raises(NotFoundError, match="no artifact artifact:tuned@v-9"):
        bench.promoter.promote("tuned", "v-9")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    save_file({"layer.weight": np.ones((8, 8), np.float32)}, str(base / "model.safetensors"))
    bench.deploy(model=str(base))
    make_model(bench.storage, "tuned", "v-0")
    with pytest.raises(ModelError, match="trained on another base model, hf:org/base"):
        bench.promoter.promote("tuned", None, force=True)
    make_model(bench.storage, "tuned", "v-1", width=4, base_model=str(base))
    with pytest.raises(ModelError, match="not an adapter of this base model"):
        bench.promoter.promote("tuned", None, force=True)
    bench.deploy(name="tuned")
    with pytest.raises(InputError, match="'tuned' already names another model here"):
        bench.promoter.promote("tuned", None, force=True)


def test_another_base_model_is_another_model_however_alike(bench: Bench) -> None:
    bench.version("v-1", skill=FAIR)
    bench.promoter.promote("tuned", None)
    make_model(bench.storage, "tuned", "v-20", base_model="hf:org/other")
    asked = {"raft": "tuned@v-20"}
    compare(bench.storage, "c-20", skill={"rag": POOR, "raft": GOOD}, adapters=asked, model="hf:org/other")
    with pytest.raises(ModelError, match="trained on another base model, hf:org/other"):
        bench.promoter.promote("tuned", "v-20", force=True)
    # Nor does it say anything of the endpoint if it was compared there alone.
    make_model(bench.storage, "tuned", "v-3")
    compare(
        bench.storage, "c-3", skill={"rag": POOR, "raft": GOOD}, adapters={"raft": "tuned@v-3"}, model="hf:org/other"
    )
    with pytest.raises(NotPromotedError, match="c-3 asked another base model, hf:org/other"):
        bench.promoter.promote("tuned", "v-3")


@pytest.mark.parametrize("other", [{"collection": "elsewhere"}, {"prompt": {**PROMPT, "system": "?"}}, {"top_k": 1}])
def test_what_is_live_must_have_been_asked_so_too(bench: Bench, other: dict[str, Any]) -> None:
    make_model(bench.storage, "tuned", "v-1")
    bench.promoter.promote("tuned", None, force=True)
    compare(bench.storage, "c-1", skill={"rag": POOR, "raft": POOR}, adapters={"raft": "tuned@v-1"}, **other)
    bench.version("v-2", skill=MIDDLING)
    with pytest.raises(NotPromotedError, match="no comparison has asked both"):
        bench.promoter.promote("tuned", "v-2")
    # One that doesn't fit stands in nobody's way, though it is the newest.
    compare(bench.storage, "c-10", skill={"rag": POOR, "raft": FAIR}, adapters={"raft": "tuned@v-1"})
    compare(bench.storage, "c-x", skill={"rag": POOR, "raft": GOOD}, adapters={"raft": "tuned@v-2"}, **other)
    with pytest.raises(NotPromotedError, match=r"it is worse: .* against v-1, of 60 questions"):
        bench.promoter.promote("tuned", "v-2")


def test_few_questions_do_not_outweigh_many(bench: Bench) -> None:
    bench.version("v-1", skill=POOR)
    compare(bench.storage, "c-few", skill={"rag": POOR, "raft": GOOD}, adapters={"raft": "tuned@v-1"}, count=5)
    with pytest.raises(NotPromotedError, match=r"it is worse: .* of 60 questions"):
        bench.promoter.promote("tuned", None)


def test_of_few_questions_all_lost_are_enough(bench: Bench) -> None:
    make_model(bench.storage, "tuned", "v-1")
    skill = {"rag": (1.0, 1.0, 0.0), "raft": (0.0, 0.0, 0.0)}
    compare(bench.storage, "c-1", skill=skill, adapters={"raft": "tuned@v-1"}, count=5)
    with pytest.raises(NotPromotedError, match="of 5 questions"):
        bench.promoter.promote("tuned", None)


def test_what_can_not_be_ruled_out_is_told(bench: Bench) -> None:
    bench.version("v-1", skill=FAIR)
    compare(bench.storage, "c-alike", skill={"rag": FAIR, "raft": FAIR}, adapters={"raft": "tuned@v-1"}, count=90)
    change = bench.promoter.promote("tuned", None, dry_run=True)
    (said,) = change.refusals or change.notes
    assert "of 90 questions" in said
    assert said.startswith("a loss can't be ruled out" if change.notes else "it is worse")


def test_a_version_of_a_whole_model_is_what_was_asked_and_not_what_is_newest(bench: Bench) -> None:
    make_model(bench.storage, "whole", "w-1", type="model")
    compare(bench.storage, "base", skill={"rag": MIDDLING})
    compare(bench.storage, "c-1", skill={"rag": GOOD}, model="artifact:whole", model_id="w-1")
    make_model(bench.storage, "whole", "w-2", type="model")
    with pytest.raises(NotPromotedError, match="no comparison has asked it"):
        bench.promoter.promote("whole", "w-2")
    assert bench.promoter.promote("whole", "w-1").version == "w-1"
    # Its adapters are of no use over another one.
    make_model(bench.storage, "tuned", "v-1", base_model="artifact:whole@w-1")
    bench.promoter.promote("tuned", "v-1", force=True)
    with pytest.raises(ConflictError, match="tuned: trained over artifact:whole@w-1"):
        bench.promoter.rollback("whole")


@pytest.mark.parametrize("broken", ["items.parquet", "report.json"])
def test_files_that_are_damaged_say_nothing(bench: Bench, broken: str) -> None:
    bench.version("v-1", skill=FAIR)
    bench.promoter.promote("tuned", None)
    bench.version("v-20")
    (bench.storage / "artifacts" / "comparison" / "c-v-1" / broken).write_text("[]")
    with pytest.raises(NotPromotedError, match="no comparison has asked both"):
        bench.promoter.promote("tuned", None)
    assert len(list_models(bench.storage, None)) == 2
    bench.promoter.promote("tuned", None, force=True)


def test_of_two_adapters_of_one_model_the_one_that_answers_is_replaced(bench: Bench) -> None:
    make_model(bench.storage, "tuned", "v-0")
    bench.version("v-1", skill=FAIR)
    adapters = [{"name": "stable", "uri": "artifact:tuned@v-0"}, {"name": "latest", "uri": "artifact:tuned@v-1"}]
    bench.deploy(adapters=adapters, default_model="latest")
    bench.version("v-20")
    assert bench.promoter.promote("tuned", None).was == "v-1"
    assert {each.name: each.uri for each in bench.spec().adapters} == {
        "stable": "artifact:tuned@v-0", "latest": "artifact:tuned@v-20",
    }  # fmt: skip


def test_an_adapter_that_has_a_name_of_its_own_stays_when_it_is_tried_no_more(bench: Bench) -> None:
    make_model(bench.storage, "tuned", "v-1")
    bench.deploy(adapters=[{"name": "next", "uri": "artifact:tuned@v-1"}], canary={"model": "next", "share": 0.5})
    bench.promoter.rollback("tuned")
    assert (bench.spec().canary, [each.name for each in bench.spec().adapters]) == (None, ["next"])


def test_a_version_is_not_tried_against_itself(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    with pytest.raises(ConflictError, match="v-1 answers all of it already"):
        bench.promoter.promote("tuned", None, share=0.1)


def test_what_was_trained_over_another_base_is_not_gone_back_to(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    make_model(bench.storage, "tuned", "v-2", base_model="hf:org/other")
    bench.deploy(model="hf:org/other", adapters=[{"name": "tuned", "uri": "artifact:tuned@v-2"}])
    with pytest.raises(ConflictError, match="nothing else here before"):
        bench.promoter.rollback("tuned")


def test_a_neighbour_that_is_gone_stands_in_nobodys_way(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    bench.version("w-1", name="second")
    shutil.rmtree(bench.storage / "artifacts" / "tuned")
    bench.promoter.promote("second", None, force=True)
    bench.promoter.rollback("second")
    assert bench.answering() == "artifact:tuned@v-1"


def test_an_upstream_answers_with_its_own_model(bench: Bench) -> None:
    make_model(bench.storage, "whole", "w-1", type="model")
    bench.deploy(engine={"name": "upstream", "url": "http://127.0.0.1:9/v1", "model": "theirs"})
    with pytest.raises(ConflictError, match="engine upstream answers with other models than ours"):
        bench.promoter.promote("whole", None, force=True)


def test_what_ray_serve_took_without_our_hearing_of_it_is_known_from_it(bench: Bench) -> None:
    named = {"adapters": [{"name": "tuned", "uri": "artifact:tuned"}], "default_model": "tuned"}
    bench.version("v-1", skill=FAIR)
    bench.deploy(**named)
    bench.version("v-20")
    with bench.answer_lost(taken=True), pytest.raises(UnreachableError):
        bench.promoter.promote("tuned", None)
    assert bench.answering() == "artifact:tuned@v-20"
    bench.deploy(**named, limits={"max_tokens": 7})
    assert bench.answering() == "artifact:tuned@v-20"
    assert [release.act for release in bench.deployer.releases.of("rag")] == [
        Act.DEPLOY, Act.PROMOTE, Act.DEPLOY, Act.DEPLOY,
    ]  # fmt: skip
    assert bench.promoter.rollback("tuned").version == "v-1"


def test_what_is_changed_while_it_is_judged_is_judged_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.version("v-1")
    change = bench.deployer.change
    deploys = iter([{"max_tokens": 7}, {"max_tokens": 8}, {"max_tokens": 9}, {"max_tokens": 10}])

    def somebody_is_faster(*arguments: Any) -> bool:
        bench.deploy(limits=next(deploys))
        return change(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(bench.deployer, "change", somebody_is_faster)
        with pytest.raises(ConflictError, match="others are changing it"):
            bench.promoter.promote("tuned", None)
    assert (bench.answering(), bench.spec().limits.max_tokens) == (BASE, 9)
    with monkeypatch.context() as patched:
        turns = iter([somebody_is_faster])

        def somebody_is_faster_once(*arguments: Any) -> bool:
            return next(turns, change)(*arguments)

        patched.setattr(bench.deployer, "change", somebody_is_faster_once)
        bench.promoter.promote("tuned", None)
    assert (bench.answering(), bench.spec().limits.max_tokens) == ("artifact:tuned@v-1", 10)


def test_a_file_that_was_deployed_twice_counts_where_it_is_changed_then(bench: Bench) -> None:
    named = {"adapters": [{"name": "tuned", "uri": "artifact:tuned"}], "default_model": "tuned"}
    bench.version("v-1", skill=FAIR)
    bench.deploy(**named)
    bench.version("v-20")
    # The same file, with a newer version.
    bench.deploy(**named)
    bench.promoter.rollback("tuned")
    bench.deploy(adapters=[{"name": "tuned", "uri": "artifact:tuned@v-20"}], default_model="tuned")
    assert bench.answering() == "artifact:tuned@v-20"


def test_a_file_that_says_the_same_leaves_what_was_promoted(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)
    make_model(bench.storage, "tuned", "v-2")
    bench.promoter.promote("tuned", "v-2", share=0.1)
    assert bench.deploy(limits={"max_tokens": 7}) == [
        "rag: tuned stays v-1, as promoted; the newest is v-2: `tandem promote tuned`",
        "rag: as promoted, since the file says what it said before: adapters, default_model, canary",
    ]
    assert (bench.answering(), bench.spec().limits.max_tokens) == ("artifact:tuned@v-1", 7)
    assert bench.spec().canary is not None
    # A head that was lost has forgotten it, and its endpoints are deployed again.
    bench.serve.apps.clear()
    bench.deploy()
    assert bench.answering() == "artifact:tuned@v-1"
    assert bench.deploy(adapters=[]) == [
        "rag: tuned stays v-1, as promoted; the newest is v-2: `tandem promote tuned`",
        "rag: as promoted, since the file says what it said before: adapters, default_model, canary",
    ]
    own = make_model(bench.storage, "own", "o-1")
    bench.deploy(adapters=[{"name": "own", "uri": str(own)}])
    assert [each.name for each in bench.spec().adapters] == ["tuned", "tuned-canary", "own"]
    assert bench.answering() == "artifact:tuned@v-1"
    # Over another base model nothing of it is of use.
    assert bench.deploy(model="hf:org/other") == [
        "rag: the file ends what was promoted: adapters, default_model, canary"
    ]
    assert (bench.answering(), bench.spec().adapters) == ("hf:org/other", ())


def test_what_ray_serve_did_not_take_is_no_release(bench: Bench) -> None:
    bench.version("v-1")
    bench.promoter.promote("tuned", None)

    make_model(bench.storage, "tuned", "v-2")
    with bench.answer_lost(taken=False), pytest.raises(UnreachableError):
        bench.promoter.promote("tuned", "v-2", force=True)
    assert bench.deployer.releases.of("rag")[0].facts["version"] == "v-1"
    assert bench.promoter.rollback("tuned").version is None
