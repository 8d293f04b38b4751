"""Where the sections of a reStructuredText or Markdown text begin."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PUNCTUATION = re.compile(r"^([!-/:-@\[-`{-~])\1+$")
_SHORTEST_UNDERLINE = 3
# `.. _label:` and one-line directives (`.. setting:: DEBUG`, `.. module:: x`): they announce the heading below them.
_EXPLICIT_MARKUP = re.compile(r"^\.\. (_[^:]+:|[\w:.-]+::.*)\s*$")
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_INLINE_MARKUP = re.compile(r"``|`|\*\*")


@dataclass(frozen=True)
class Heading:
    """One heading of a document.

    Args:
        level: 1 is the highest.
        title: Without markup.
        start: Offset, in characters, at which its section begins (labels and overline are part of it).
        body: Offset of the first character after the heading.
        page: The page that its section is, from 1, in a file that has pages.
    """

    level: int
    title: str
    start: int
    body: int
    page: int | None = None


def _lines(text: str) -> tuple[list[str], list[int]]:
    """The lines without their ends, and the offset of each plus that of the end of the text."""
    lines, offsets, position = [], [], 0
    for line in text.split("\n"):
        lines.append(line)
        offsets.append(position)
        position += len(line) + 1
    offsets.append(len(text))
    return lines, offsets


def _plain(title: str) -> str:
    return _INLINE_MARKUP.sub("", title).strip()


def _is_rule(line: str) -> bool:
    return len(line) >= _SHORTEST_UNDERLINE and _PUNCTUATION.match(line) is not None


def _announced_from(lines: list[str], first: int) -> int:
    """The line at which the labels and one-line directives directly above line `first` begin."""
    start, above = first, first - 1
    while above >= 0:
        line = lines[above]
        if _EXPLICIT_MARKUP.match(line):
            start = above
        elif line.strip():
            break
        above -= 1
    return start


def rst_headings(text: str) -> tuple[Heading, ...]:
    """Section titles: a line with an underline (and perhaps an overline) of one repeated punctuation mark.

    Levels follow the order in which the styles first appear, as in docutils
    (https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html#sections).

    Args:
        text: The whole document.

    Returns:
        The headings in order.
    """
    lines, offsets = _lines(text)
    styles: list[tuple[str, bool]] = []
    found: list[Heading] = []
    number = 0
    while number < len(lines) - 1:
        title, underline = lines[number].rstrip(), lines[number + 1].rstrip()
        above = lines[number - 1].rstrip() if number else ""
        overlined = _is_rule(above) and above == underline and len(above) >= len(title.strip())
        is_title = (
            bool(title.strip())
            and not _is_rule(title)
            and _is_rule(underline)
            and (overlined or (not title[0].isspace() and not above.strip() and len(underline) >= len(title)))
        )
        if not is_title:
            number += 1
            continue
        style = (underline[0], overlined)
        if style not in styles:
            styles.append(style)
        first = _announced_from(lines, number - 1 if overlined else number)
        body = offsets[min(number + 2, len(lines))]
        found.append(Heading(styles.index(style) + 1, _plain(title), offsets[first], body))
        number += 2
    return tuple(found)


def markdown_headings(text: str) -> tuple[Heading, ...]:
    """ATX (``## Title``) and setext (underlined) headings outside fenced code, as in CommonMark.

    Args:
        text: The whole document.

    Returns:
        The headings in order.
    """
    lines, offsets = _lines(text)
    found: list[Heading] = []
    fence: str | None = None
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if fence is not None:
            if mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            continue
        if mark:
            fence = mark.group(1)
            continue
        atx = _ATX.match(line)
        if atx:
            found.append(Heading(len(atx.group(1)), _plain(atx.group(2)), offsets[number], offsets[number + 1]))
            continue
        underline = lines[number + 1].strip() if number + 1 < len(lines) else ""
        starts_paragraph = number == 0 or not lines[number - 1].strip()
        is_text = bool(line.strip()) and not line.startswith((" ", "\t", "-", "*", ">", "|"))
        if is_text and starts_paragraph and len(underline) >= _SHORTEST_UNDERLINE and set(underline) in ({"="}, {"-"}):
            level = 1 if underline[0] == "=" else 2
            found.append(Heading(level, _plain(line), offsets[number], offsets[min(number + 2, len(lines))]))
    return tuple(found)
