"""Questions are made from the documents, and the splits are frozen."""

from __future__ import annotations

import json
from pathlib import Path

from tandem.demo.questions import faq_questions, plain, settings_questions, write_questions

SETTINGS = """========
Settings
========

Core Settings
=============

``ADMINS``
----------

Default: ``[]`` (Empty list)

People.

``CACHES``
----------

Default::

    {}

``BACKEND``
~~~~~~~~~~~

Default: ``''`` (Empty string)

``EMAIL_BACKEND``
-----------------

Default: ``'``:class:`django.core.mail.backends.smtp.EmailBackend`\\ ``'``
"""
FAQ = """====
FAQ
====

Why :doc:`Django </intro>`?
===========================

.. note::

Because of ``DEBUG`` and
:ref:`other things <x>`.

Second.
"""


def docs(folder: Path) -> Path:
    for name, text in (("ref/settings.txt", SETTINGS), ("faq/general.txt", FAQ)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_settings_with_a_default_on_one_line(tmp_path: Path) -> None:
    rows = settings_questions(docs(tmp_path))
    backend = "django.core.mail.backends.smtp.EmailBackend"
    assert [(r["id"], r["answers"]) for r in rows] == [
        ("setting-ADMINS", ["[]"]),
        ("setting-EMAIL_BACKEND", [f"'{backend}'", backend]),
    ]
    assert {r["source"] for r in rows} == {"ref/settings.txt"}


def test_faq_heading_asks_and_first_paragraph_answers(tmp_path: Path) -> None:
    (row,) = faq_questions(docs(tmp_path))
    assert row["question"] == "Why Django?"
    assert row["answers"] == ["Because of DEBUG and other things."]


def test_inline_markup() -> None:
    assert plain("see `the list <https://x.y>`_, :setting:`DEBUG`, *now*") == "see the list, DEBUG, now"


def test_splits_are_frozen_and_apart(tmp_path: Path) -> None:
    paths = write_questions(docs(tmp_path / "docs"), tmp_path / "out")
    again = write_questions(docs(tmp_path / "docs"), tmp_path / "again")
    ids = {}
    for name, path in paths.items():
        assert path.read_bytes() == again[name].read_bytes()
        ids[name] = {json.loads(line)["id"] for line in path.read_text().splitlines()}
    assert not ids["train"] & ids["eval"]
    assert len(ids["train"] | ids["eval"]) == 3
