from __future__ import annotations

import pytest

from tandem.evaluation.classification.prompt import beginning, label_prompt
from tandem.specs.compare import ClassifyPromptSpec

SPEC = ClassifyPromptSpec(system="", text="{text}", example_words=40)
NEAR, FAR = ("near " * 40).strip(), ("far " * 40).strip()


def words(messages: list[dict[str, str]]) -> int:
    return sum(len(turn["content"].split()) for turn in messages)


def shown(room: int, text: str = "asked " * 10) -> tuple[int, list[str], bool]:
    prompt = label_prompt(SPEC, text, ("x", "y"), [(NEAR, "x"), (FAR, "y")], room=room, count=words)
    assert words(prompt.messages) <= room or not prompt.fits
    return prompt.shown, [turn["content"].split()[0] for turn in prompt.messages], prompt.fits


def test_the_nearest_example_stands_beside_the_text() -> None:
    assert shown(200) == (2, ["far", "y", "near", "x", "asked"], True)


def test_the_farthest_goes_first_then_the_nearest_is_shortened_then_it_goes_too() -> None:
    assert shown(91) == (1, ["near", "x", "asked"], True)
    assert shown(40) == (1, ["near", "x", "asked"], True)
    assert shown(15) == (0, ["asked"], True)


def test_the_text_itself_is_never_shortened() -> None:
    assert shown(9) == (0, ["asked"], False)


def test_unless_the_spec_says_so() -> None:
    spec = SPEC.model_copy(update={"text_words": 8})
    prompt = label_prompt(spec, "asked " * 10, ("x",), [], room=9, count=words)
    assert prompt.fits
    assert prompt.messages[0]["content"] == ("asked " * 8).strip() + " …"


@pytest.mark.parametrize(("text", "short"), [("a  b\nc d", "a  b …"), (" a b ", " a b "), ("a", "a")])
def test_a_beginning_keeps_the_text_as_it_stands(text: str, short: str) -> None:
    assert beginning(text, 2) == short
    assert beginning(text, None) == text
