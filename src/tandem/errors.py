"""Every error that Tandem raises on purpose.

    TandemError                 1  the job or the check failed
    ├── InputError              2  a person can mend it by changing what they gave
    │   ├── SpecError              a spec file: unknown key, wrong type, impossible combination
    │   │   └── InvalidSpecError   all the faults of one file
    │   ├── DataError              a document, a row, a data set
    │   ├── DivergedError          a training whose loss is no number, or grows and grows
    │   ├── ModelError             a model, adapter or artifact that isn't what it should be
    │   ├── NotFoundError          a job, collection or artifact by a name that doesn't exist
    │   └── ConflictError          what was asked doesn't fit how things stand: a job that has ended can't be stopped
    ├── JobFailedError          1  a job that ended in FAILED or STOPPED
    ├── NotPromotedError        1  a version of a model that the comparisons don't let take over
    ├── OutOfMemoryError        1  a worker needed more memory than there is
    ├── DiskFullError           1  there is no room to write what a job has made
    ├── WorkerLostError         1  a worker went away, or the machine under it
    ├── PreemptedError          1  a job stepped aside for one of higher priority, and goes on later
    ├── StoreError              1  the vector store refused or lost an operation
    └── UnreachableError        3  the cluster, server or endpoint can't be reached
        ├── DatabaseError       3  the database of the job records is away, locked or full
        └── AuthError           3  it was reached, and refused our key or token
            └── ForbiddenError  3  it knows our key, whose role doesn't allow this

An error says what is wrong, where, and what to do. The number is the exit status of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TandemError(Exception):
    """The root of the tree.

    Args:
        what: What is wrong, in one line.
        where: The file (``file:line: field``), URL or job that it is about.
        remedy: What to do about it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line} ({self.remedy})" if self.remedy else line

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by positional args alone: keyword-only fields would be lost between Ray processes.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(cls: type[TandemError], what: str, where: str | None, remedy: str | None) -> TandemError:
    return cls(what, where=where, remedy=remedy)


class InputError(TandemError):
    """A person can mend it by changing what they gave."""

    exit_status = 2


class SpecError(InputError):
    """A spec that can't be used; one per fault, so that all can be shown at once."""


class InvalidSpecError(SpecError):
    """All the faults of one spec file.

    Attributes:
        errors: One `SpecError` for each fault.
    """

    def __init__(self, errors: Sequence[SpecError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[Any, ...]:
        return (InvalidSpecError, (self.errors,))


class DataError(InputError):
    """Documents, rows or a data set that can't be used."""


class DivergedError(InputError):
    """A training whose loss is no number, or grows and grows: its rows or its settings must change."""


class ModelError(InputError):
    """A model, adapter or artifact that isn't what it should be."""


class NotFoundError(InputError):
    """No job, collection or artifact has this name."""


class ConflictError(InputError):
    """What was asked doesn't fit how things stand."""


class JobFailedError(TandemError):
    """A job ended in FAILED or STOPPED."""


class NotPromotedError(TandemError):
    """The comparisons don't let a version of a model take over; nothing has changed."""


class OutOfMemoryError(TandemError):
    """A worker needed more memory than there is."""


class DiskFullError(TandemError):
    """There is no room to write what a job has made; it goes on when there is."""


class WorkerLostError(TandemError):
    """A worker went away, or the machine under it."""


class PreemptedError(TandemError):
    """A job stepped aside for one of higher priority; it goes on later."""


class StoreError(TandemError):
    """The vector store refused or lost an operation."""


class UnreachableError(TandemError):
    """The cluster, server or endpoint can't be reached."""

    exit_status = 3


class DatabaseError(UnreachableError):
    """The database of the job records is away, locked or full; what waits goes on when it is back."""


class AuthError(UnreachableError):
    """It was reached, and refused our key or token."""


class ForbiddenError(AuthError):
    """It knows our key, whose role doesn't allow this."""
