from __future__ import annotations

from tandem.data.headings import markdown_headings, rst_headings

RST = """\
========
Settings
========

Intro.

.. setting:: DEBUG

``DEBUG``
---------

Default: ``False``

=====  =====
a      b
=====  =====

Example::

    Not a title
    -----------

.. _labels:
.. _more:

Sub
~~~
text
"""


def test_rst_levels_follow_the_order_of_styles_and_labels_belong_to_what_they_announce() -> None:
    found = rst_headings(RST)
    assert [(heading.level, heading.title) for heading in found] == [(1, "Settings"), (2, "DEBUG"), (3, "Sub")]
    starts = [RST[heading.start :].splitlines()[0] for heading in found]
    assert starts == ["========", ".. setting:: DEBUG", ".. _labels:"]
    assert [RST[heading.body :].strip().splitlines()[0] for heading in found] == [
        "Intro.",
        "Default: ``False``",
        "text",
    ]


def test_rst_ignores_transitions_lists_and_short_underlines() -> None:
    assert rst_headings("a paragraph\n\n----\n\nanother\n\n* item\n\nLong title here\n---\n") == ()


def test_rst_heading_at_the_end_of_the_text() -> None:
    text = "Title\n====="
    (heading,) = rst_headings(text)
    assert (heading.start, heading.body) == (0, len(text))


def test_markdown_headings_outside_fences() -> None:
    text = "# One\ntext\n\n```sh\n# no heading\n```\n\n## Two ##\n\nThree\n---\n\n~~~\n```\n# no\n~~~\n#hashtag\n"
    assert [(heading.level, heading.title) for heading in markdown_headings(text)] == [
        (1, "One"),
        (2, "Two"),
        (2, "Three"),
    ]


def test_a_markdown_list_or_table_over_a_rule_is_no_heading() -> None:
    assert markdown_headings("- item\n---\n\n| a | b |\n---\n\nlast line\nof a paragraph\n---\n") == ()
