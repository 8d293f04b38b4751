from __future__ import annotations

import pytest

from tandem.data.containment import contains


@pytest.mark.parametrize(
    ("answer", "text", "there"),
    [
        ("0", "Default: ``0``", True),
        ("0", "since 2010", False),
        ("None", "a nonempty list", False),
        ("none", "Default: None.", True),
        ("two  words", "Two\nwords", True),
        ("very long answer", "It is a  very\nlong answer.", True),
        ("DEBUG", "DEBUG_PROPAGATE", False),
        ("EmailBackend", "smtp.EmailBackend", True),
        ("Straße", "STRASSE", True),
        ("a", "banana a", True),
        ("a", "banana", False),
        ("the Eiffel Tower", "An Eiffel Tower", True),
        # Ends of a sentence, and quotes.
        ("Paris.", "In Paris, France", True),
        ("Paris", "Parisian", False),
        ('"Paris"', "in ‘Paris’?", True),
        (".py", "a .py file", True),
        (".py", "a py file", False),
        # Other punctuation counts.
        ("[]", "Default: ``[]`` (Empty list)", True),
        ("[]", "Default: empty", False),
        ("{}", "Default: ``[]``", False),
        ("'/'", "Default: ``'/'``", True),
        ("'/media/'", "Default: '/media/'", True),
        ("'/media/'", "social media", False),
        ("''", "Default: ``''``", True),
        ("*", "all", False),
        ("C++", "in C", False),
        # Numbers are whole.
        ("1209600", "Default: ``1209600`` (2 weeks)", True),
        ("1209600", "Default: 12096001", False),
        ("2.0", "20 minutes", False),
        ("2.0", "version 2.0.", True),
        ("2.0", "version 2.0.1", False),
        ("14", "3.14", False),
        ("3", "3.14", False),
        ("3", "It took 3. Then", True),
        ("1,000", "1000 rows", True),
        ("1000", "1,000 rows", True),
        ("1", "Default: -1", False),
        ("-1", "Default: -1", True),
        ("20", "10-20 minutes", True),
        ("  ", "anything", False),
        ("", "anything", False),
    ],
)
def test_an_answer_stands_in_a_text_as_whole_words_and_numbers(answer: str, text: str, there: bool) -> None:
    assert contains(text, answer) is there
