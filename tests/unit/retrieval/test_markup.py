from __future__ import annotations

import pytest

from tandem.retrieval.markup import embedding_text

RST = """\
.. _a-label:
.. setting:: DEBUG

``DEBUG``
---------

Default: ``False``

See :setting:`ADMINS`, :class:`~django.http.HttpRequest` and :ref:`the section <a-label>`.

.. versionadded:: 5.2
"""


def test_only_words_are_left_below_the_nearest_heading() -> None:
    assert embedding_text(("Settings", "Core", "DEBUG"), RST) == (
        "DEBUG (Settings > Core)\nsetting: DEBUG\nDEBUG\nDefault: False\n"
        "See ADMINS, django.http.HttpRequest and the section.\nversionadded: 5.2"
    )


@pytest.mark.parametrize(("headings", "first"), [((), "x"), (("A",), "A\nx"), (("A", "B"), "B (A)\nx")])
def test_headings_stand_first(headings: tuple[str, ...], first: str) -> None:
    assert embedding_text(headings, "x") == first


@pytest.mark.parametrize("text", ["a - b", "x = 1 < 2", "def f(a: int) -> None: ...", "time 10:30, C:\\dir", "a_b__c"])
def test_code_and_prose_stay_as_they_are(text: str) -> None:
    assert embedding_text((), text) == text
