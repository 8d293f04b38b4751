"""Why the arms come in the order in which they do, as far as slices tell. Takes report.json as data."""

from __future__ import annotations

from typing import Any

from tandem.evaluation.figures.slices import ANSWER_RETRIEVED, ANSWER_SEEN, GOLD_RETRIEVED
from tandem.evaluation.figures.verdict import join
from tandem.evaluation.report.text import Data, points, ranked, share, things


def explanation(report: Data) -> list[str]:
    """Sentences on where the best arm's lead comes from; none where no slice tells.

    What they say is read off the figures and isn't tested: questions whose document is found may be easier ones.

    Args:
        report: A report.json, as data.
    """
    return [*_by_retrieval(report), *_by_answer_seen(report)]


def _scores(report: Data, column: str, value: str) -> dict[str, float]:
    """By candidate, best first: its primary metric on the questions of one value."""
    metric, values = report["verdict"]["metric"], report["slices"][column][value]
    names = [name for name in ranked(report) if report["arms"][name]["candidate"]]
    return {name: values[name]["metrics"][metric] or 0.0 for name in names}


def _count(report: Data, column: str, value: str) -> int:
    part: dict[str, Any] = report["slices"][column][value]
    return int(next(iter(part.values()))["n"])


def _order(report: Data, scores: dict[str, float]) -> str:
    best = sorted(scores, key=lambda name: -scores[name])
    return ", ".join(f"{name} {share(report, scores[name])}" for name in best)


# What retrieval may find, and what is missing else. Where documents are long the right one is often found for all
# questions, and only its passages tell.
_FOUND = {
    GOLD_RETRIEVED: ("The gold document was retrieved", "where it wasn't", "the right document"),
    ANSWER_RETRIEVED: ("A right answer stood in a retrieved passage", "where none did", "the right passage"),
}


def _by_retrieval(report: Data) -> list[str]:
    column = next((name for name in _FOUND if set(report["slices"].get(name, ())) == {"yes", "no"}), None)
    if column is None:
        return []
    was, was_not, what = _FOUND[column]
    found, missed = (_scores(report, column, value) for value in ("yes", "no"))
    count = _count(report, column, "yes")
    margin, best = report["verdict"]["margin"], next(iter(found))
    said = [
        f"{was} for {count:,} of {things(report)}. There the order is {_order(report, found)}; {was_not}: "
        f"{_order(report, missed)}."
    ]
    lost = found[best] - missed[best]
    if lost >= margin:
        now = report["arms"][best]["metrics"][report["verdict"]["metric"]] or 0.0
        said.append(
            f"So {best} lives on what is retrieved: without {what} it loses {points(report, lost)} points. Were "
            f"that always found, and used as well as now, it would reach {share(report, found[best])} instead of "
            f"{share(report, now)}."
        )
    else:
        said.append(f"{best} hardly depends on {what}: without it, it loses less than {points(report, margin)} points.")
    without = [name for name in missed if report["arms"][name]["metrics"].get("recall_at_k") is None]
    better = [name for name in without if missed[name] > missed[best]]
    if better and best not in without:
        verb = "does" if len(better) == 1 else "do"
        said.append(f"Where retrieval fails, {join(better)}, asked without any passages, {verb} better than {best}.")
    return said


def _by_answer_seen(report: Data) -> list[str]:
    if set(report["slices"].get(ANSWER_SEEN, ())) != {"yes", "no"}:
        return []
    seen, new = (_scores(report, ANSWER_SEEN, value) for value in ("yes", "no"))
    margin = report["verdict"]["margin"]
    trained = [name for name in seen if report["arms"][name]["cost"]["train"] != 0.0]
    leaning = [name for name in trained if seen[name] - new[name] >= margin]
    if not leaning:
        return []
    count = _count(report, ANSWER_SEEN, "yes")
    falls = join([f"{name} from {share(report, seen[name])} to {share(report, new[name])}" for name in leaning])
    return [
        f"The answers of {things(report, count)} were answers in training too. On the others what was trained is less "
        f"often right: {falls}."
    ]
