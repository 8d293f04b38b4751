"""What commands print: JSON on request, tables for a person, plain lines for a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def is_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def print_json(data: Any) -> None:
    """Data as JSON, readable and complete."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None, heading: bool = False
) -> None:
    """Rows as a table on a terminal, else as lines with tabs between the fields.

    Args:
        columns: The heading.
        rows: Their cells.
        title: Above the table, on a terminal.
        heading: Whether a pipe gets the heading too.
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not is_terminal():
        for row in [list(columns), *texts] if heading else texts:
            print("\t".join(row))
        return
    from rich.console import Console

    Console().print(make_table(columns, texts, title=title))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> Table:
    """Rows as a table for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_styled(escape("" if cell is None else str(cell))) for cell in row))
    return table


def _styled(cell: str) -> str:
    colour = {
        "SUCCEEDED": "green",
        "RUNNING": "cyan",
        "STARTING": "cyan",
        "RETRYING": "yellow",
        "FAILED": "red",
        "STOPPED": "yellow",
    }.get(cell)
    return f"[{colour}]{cell}[/{colour}]" if colour else cell


def note(line: str) -> None:
    """A line for the person at the keyboard; stdout stays clean for data."""
    print(line, file=sys.stderr, flush=True)
