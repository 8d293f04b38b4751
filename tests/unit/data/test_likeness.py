from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from tandem.data.duplicates import RESEMBLANCE, SHINGLE
from tandem.data.likeness import LONG, Fingerprints, find_alike, find_repeats, questions_in

ASKED = "What is the default value of the Django setting CACHES?"


def alike(one: str, other: str) -> bool:
    return bool(find_alike(Fingerprints.of([one]), Fingerprints.of([other]))[0] == 0)


def sentence(seed: int, length: int) -> list[str]:
    return random.Random(seed).sample([f"word{n}" for n in range(3000)], k=length)


@pytest.mark.parametrize(
    "other",
    [
        ASKED,
        "what is the DEFAULT value, of the Django setting `CACHES`",
        "What's the default value of Django's setting CACHES?",
        "Which is the default value of the CACHES setting in Django, please?",
    ],
)
def test_case_marks_function_words_and_order_make_no_other_question(other: str) -> None:
    assert alike(ASKED, other)
    assert alike(other, ASKED)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ASKED, "What is the default value of the Django setting CACHE?"),
        (ASKED, "What is the default value of the Django setting?"),
        ("Who founded the city of Rome?", "When was the city of Rome founded?"),
        ("Is the index restricted to values below fermi?", "Is the index restricted to values above fermi?"),
        ("I think I've found a bug! What should I do?", "I think I've found a security problem! What should I do?"),
        ("Why does the pump stop?", "Why does the pump not stop?"),
        ("What is love?", "What do you love?"),
    ],
)
def test_another_word_makes_another_question(one: str, other: str) -> None:
    assert not alike(one, other)


def test_in_a_long_question_a_word_more_or_another_is_let_pass_wherever_it_stands() -> None:
    words = sentence(1, 60)
    for place in (0, 30, 59):
        assert alike(" ".join(words), " ".join([*words[:place], "other", *words[place + 1 :]]))
        assert alike(" ".join(words), " ".join([*words[:place], "more", *words[place:]]))
    assert not alike(" ".join(words), " ".join([*words[:30], *sentence(2, 30)]))


def test_in_a_question_of_usual_length_it_is_not() -> None:
    for length in range(5, LONG):
        words = sentence(length, length)
        assert not alike(" ".join(words), " ".join([*words[:-1], "other"]))
        assert not alike(" ".join(words), " ".join([*words, "more"]))


def shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    padded = ["", "", "", "", *words, "", "", "", ""]
    return {tuple(padded[at : at + SHINGLE]) for at in range(len(padded) - SHINGLE + 1)}


def resemblance(one: Sequence[str], other: Sequence[str]) -> float:
    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def test_what_is_estimated_is_the_share_of_shingles() -> None:
    chance = random.Random(0)
    originals = [sentence(seed, chance.randint(100, 180)) for seed in range(200)]
    copies = []
    for words in originals:
        copy = list(words)
        for _ in range(chance.choice((1, 2, 4, 8, 12))):
            copy[chance.randrange(len(copy))] = f"word{chance.randrange(3000)}"
        copies.append(copy)
    alike = find_alike(*(Fingerprints.of(map(" ".join, texts)) for texts in (originals, copies)))
    truth = [resemblance(one, other) for one, other in zip(originals, copies, strict=True)]
    sure = [share > 0.9 or share < 0.7 for share in truth]
    assert sum(sure) > 100
    assert {share > 0.9 for share, told in zip(truth, sure, strict=True) if told} == {True, False}
    for place, (share, told) in enumerate(zip(truth, sure, strict=True)):
        assert alike[place] in (-1, place)
        if told:
            assert (alike[place] == place) == (share > RESEMBLANCE)


def test_of_questions_that_repeat_each_other_the_first_is_left_out() -> None:
    long = " ".join(sentence(1, 60))
    questions = [long, ASKED, "Another thing entirely, isn't it?", f"{long} more", ASKED.upper(), ASKED.lower()]
    assert find_repeats(Fingerprints.of(questions)).tolist() == [-1, -1, -1, 0, 1, 1]


def test_where_there_is_nothing_nothing_is_found() -> None:
    nothing, one = Fingerprints.of([]), Fingerprints.of([ASKED, " ".join(sentence(1, 60)), "?!"])
    assert find_alike(nothing, one).tolist() == []
    assert find_alike(one, nothing).tolist() == [-1, -1, -1]
    assert find_repeats(nothing).tolist() == []
    assert find_repeats(one).tolist() == [-1, -1, -1]


def test_some_fingerprints_are_those_of_their_questions() -> None:
    questions = [" ".join(sentence(seed, length)) for seed, length in enumerate((50, 10, 40, 60))]
    some = Fingerprints.of(questions).take(np.array([False, True, True, True]))
    again = Fingerprints.of(questions[1:])
    assert some.words.tolist() == again.words.tolist()
    assert some.long.tolist() == again.long.tolist() == [1, 2]
    assert some.signatures.tolist() == again.signatures.tolist()


def test_rows_of_a_long_template_are_no_match_for_each_other() -> None:
    words = sentence(1, 50)
    rows = Fingerprints.of(" ".join([*words, *sentence(seed, 14)]) for seed in range(100, 2100))
    asked = Fingerprints.of(" ".join([*words, *sentence(seed, 14)]) for seed in range(50))
    assert find_alike(asked, rows).tolist() == [-1] * 50


def test_questions_of_a_text_are_its_sentences_with_a_question_mark() -> None:
    text = 'Answer in a word. Question: What does settings.DEBUG do? Say "yes or no?"\nWhere is it set?\nIt is red.'
    assert questions_in(text) == ["What does settings.DEBUG do?", 'Say "yes or no?"', "Where is it set?"]
