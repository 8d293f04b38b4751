"""``tandem report``: a comparison's figures and verdict, or two comparisons side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.cli.output import note, print_json, print_table
from tandem.cli.spec_commands import Json

# A value of the lineage may be a whole prompt: its beginning tells enough beside the other one's, --json has all of it.
SHOWN = 64


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(report)


def report(
    first: Annotated[
        str, typer.Argument(metavar="ID", help="A comparison's id or name; or its report.json, or that file's folder.")
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Another one: sets both side by side, differences of this one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With two: write them side by side as a page too.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a comparison's figures and verdict, and where its report lies; or two of them side by side."""
    from tandem.cli.follow import print_report
    from tandem.errors import InputError

    if second is None:
        if html is not None:
            raise InputError("--html is for two comparisons", remedy="one has its report.html already")
        data, folder = find_report(first)
        if json:
            print_json(data)
            return
        print_report(data)
        note(f"report: {folder / 'report.html'}")
        return
    found = _compare(first, second)
    if html is not None:
        from tandem.evaluation.report.render import html_of_two

        _write(html, html_of_two(found))
    if json:
        print_json(found)
    else:
        print_two(found)


def find_report(name: str) -> tuple[dict[str, Any], Path]:
    """A report, and the folder of its files.

    Args:
        name: A file, a folder that has a report.json, or else a job.

    Raises:
        DataError: The file isn't a report.
        NotFoundError: No such job, or its files are gone.
    """
    from tandem.cli.client import Client
    from tandem.cli.follow import read_report

    for file in (Path(name), Path(name) / "report.json"):
        if _is_file(file):
            return _read(file), file.parent
    return read_report(Client.connect().result(name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # it is too long for a path, as a name may be


def _read(file: Path) -> dict[str, Any]:
    import json

    from tandem.errors import DataError

    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"isn't JSON: {error}", where=str(file)) from None
    _check(data, str(file))
    found: dict[str, Any] = data
    return found


def _check(data: Any, where: str) -> None:
    from pydantic import ValidationError

    from tandem.errors import DataError
    from tandem.evaluation.schema import Report

    try:
        Report.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"])) or "report"
        raise DataError(
            f"isn't a report as this version writes it: {field}: {fault['msg']}",
            where=where,
            remedy="`tandem schema report` says how one looks",
        ) from None


def _compare(first: str, second: str) -> dict[str, Any]:
    from tandem.evaluation.report.side_by_side import ITEMS, Side, side_by_side

    sides = []
    for name in (first, second):
        data, folder = find_report(name)
        _check(data, name)
        items = folder / ITEMS
        sides.append(Side(data, items if items.is_file() else None))
    return side_by_side(*sides)


def _write(path: Path, page: str) -> None:
    from tandem.errors import DataError

    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"can't be written: {error.strerror}", where=str(path)) from None
    note(f"page: {path}")


def print_two(found: dict[str, Any]) -> None:
    """Two reports as tables: what they are, arm by arm, what changed."""
    from tandem.evaluation.figures.measures import BY_NAME
    from tandem.evaluation.report.side_tables import SIDES_HEADER, about_rows, changed_rows, side_figures, side_rows

    print_table(["", "A", "B"], about_rows(found), heading=True)
    print_table(SIDES_HEADER, side_rows(found), title=BY_NAME[found["metric"]].title, heading=True)
    header, rows = side_figures(found)
    print_table(header, rows, title="other figures, A → B", heading=True)
    if changes := changed_rows(found, SHOWN):
        print_table(["changed", "A", "B"], changes, title="what else changed", heading=True)
