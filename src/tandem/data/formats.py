"""From a file's bytes to its text, with the headings that its markup names."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandem.data.headings import Heading, markdown_headings, rst_headings
from tandem.errors import DataError

if TYPE_CHECKING:
    from bs4.element import Tag

_HTML_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_HTML_PARAGRAPHS = frozenset({"p", "pre", "blockquote", "section", "article", "table", "ul", "ol", "dl", "div", "main"})
_HTML_BLOCKS = _HTML_PARAGRAPHS | {"li", "tr", "br", "dt", "dd", "header", "footer", "body", "html", "head", "aside"}


@dataclass(frozen=True)
class Text:
    """What stands in a file.

    Args:
        title: Empty where nothing in the file is one.
        body: With ``\\n`` line ends; it can be written as UTF-8.
        headings: In order.
    """

    title: str
    body: str
    headings: tuple[Heading, ...]


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise DataError("a binary file, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _markdown(data: bytes) -> Text:
    text = _decoded(data)
    return _named_by_headings(text, markdown_headings(text))


def _plain(data: bytes) -> Text:
    text = _decoded(data)
    # .txt is reStructuredText in many projects (Django's among them), Markdown in others, prose in the rest.
    return _named_by_headings(text, rst_headings(text) or markdown_headings(text))


def _named_by_headings(text: str, headings: tuple[Heading, ...]) -> Text:
    return Text(headings[0].title if headings else "", text, headings)


def _html(data: bytes) -> Text:
    from bs4 import BeautifulSoup, ParserRejectedMarkup

    try:
        soup = BeautifulSoup(_decoded(data), "html.parser")
        return _page(soup)
    except RecursionError:
        raise DataError("nested too deeply") from None
    # Python's parser asserts what it expects of declarations, as `<![`.
    except (ParserRejectedMarkup, AssertionError) as error:
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise DataError(f"not HTML that can be parsed: {reason}") from None


def _page(soup: Tag) -> Text:
    from bs4.element import NavigableString, Tag

    for unseen in soup(["script", "style", "template", "noscript", "nav", "svg"]):
        unseen.decompose()
    title = ""
    if isinstance(named := soup.find("title"), Tag):
        title = named.get_text(" ", strip=True)
        named.decompose()
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0

    def add(text: str) -> None:
        nonlocal length
        parts.append(text)
        length += len(text)

    def walk(node: Tag) -> None:
        for child in node.children:
            if isinstance(child, NavigableString):
                if type(child) is NavigableString:  # comments and doctypes are subclasses
                    add(str(child) if node.name == "pre" else " ".join(str(child).split("\n")))
            elif isinstance(child, Tag) and child.name in _HTML_HEADINGS:
                add("\n\n")
                start = length
                name = " ".join(child.get_text(" ").split())
                add(name + "\n\n")
                if name:
                    headings.append(Heading(int(child.name[1]), name, start, length))
            elif isinstance(child, Tag):
                block = child.name in _HTML_BLOCKS
                add("\n\n" if block and child.name in _HTML_PARAGRAPHS else "\n" if block else "")
                walk(child)
                add("\n" if block else "")

    walk(soup)
    return Text(title or (headings[0].title if headings else ""), "".join(parts), tuple(headings))


def _pdf(data: bytes) -> Text:
    from pypdf import PdfReader

    parts: list[str] = []
    headings: list[Heading] = []
    position = 0
    try:
        reader = PdfReader(io.BytesIO(data))
        title = _characters(str((reader.metadata.title if reader.metadata else None) or ""))
        for number, page in enumerate(reader.pages, start=1):
            text = _characters(page.extract_text()).strip()
            if not text:
                continue
            headings.append(Heading(1, f"page {number}", position, position, page=number))
            parts.append(text + "\n\n")
            position += len(parts[-1])
    except Exception as error:  # noqa: BLE001 - pypdf lets through whatever its guesses at a broken file run into
        raise DataError(f"not a PDF that can be read: {str(error) or type(error).__name__}") from None
    return Text(title, "".join(parts), tuple(headings))


def _characters(text: str) -> str:
    """Without halves of characters, which a broken font table makes and UTF-8 hasn't; two halves are joined."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


FORMATS: dict[str, Callable[[bytes], Text]] = {
    **dict.fromkeys((".txt", ".rst"), _plain),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm"), _html),
    ".pdf": _pdf,
}
