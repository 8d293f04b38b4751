from __future__ import annotations

import random

from tandem.data.duplicates import near_duplicates, text_key

WORDS = [f"word{n}" for n in range(3000)]


def article(seed: int, length: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def test_case_marks_and_white_space_make_no_other_text() -> None:
    assert text_key("Ad sales  boost\nTime-Warner!") == text_key("ad SALES boost time warner")
    assert text_key("!?") != text_key("!!")


def test_a_text_with_a_sentence_changed_joins_its_like_and_others_stay_apart() -> None:
    one = article(1)
    changed = [*one[:100], "a", "late", "correction", *one[103:]]
    keys = [" ".join(words) for words in (article(2), one, article(3), changed, one)]
    assert near_duplicates(keys) == [0, 1, 2, 1, 1]


def test_half_a_text_in_common_is_not_enough() -> None:
    one, two = article(1), article(2)
    assert near_duplicates([" ".join(one), " ".join([*one[:100], *two[:100]])]) == [0, 1]


def test_short_texts_join_only_their_equals() -> None:
    assert near_duplicates(["good film", "good films", "good film"]) == [0, 1, 0]


def test_near_duplicates_are_found_among_many() -> None:
    originals = [article(seed, 60) for seed in range(300)]
    copies = [[*words[:55], "updated"] for words in originals]
    keys = [" ".join(words) for words in [*originals, *copies]]
    assert near_duplicates(keys) == [*range(300), *range(300)]
