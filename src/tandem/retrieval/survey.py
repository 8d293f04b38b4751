"""What an index job's documents make, without a word to the store: read, chunked, staged on disk; ids in memory."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.job import JobContext
from tandem.data.quarantine import Fault, check_complete, check_share, write_quarantine
from tandem.errors import TandemError
from tandem.retrieval.chunk_ids import none, union
from tandem.retrieval.indexing import InputFile
from tandem.retrieval.staging import Stage, Staged, read
from tandem.specs.index import IndexSpec

if TYPE_CHECKING:
    from tandem.retrieval.chunk_ids import ChunkIds

# Reading waits for disks and networks; a share other than the chunking's keeps Ray from making one task of both, so
# that one large file is chunked by many.
_READER_CPUS = 0.5
_READ_BLOCKS_PER_CPU = 4


@contextmanager
def staging(context: JobContext) -> Iterator[Path]:
    """The folder of staged chunks, for as long as the job needs it; what a killed attempt left goes first."""
    folder = context.dir / "staged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_and_stage(files: list[InputFile], stage: Stage) -> Any:
    """Read and chunk all files: a dataset of one row for each block of documents, made while it is iterated."""
    import ray

    blocks = min(len(files), _READ_BLOCKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1))))
    source = ray.data.from_items([{"file": pickle.dumps(file)} for file in files], override_num_blocks=blocks)
    documents = source.flat_map(read, num_cpus=_READER_CPUS)
    return documents.map_batches(stage.__call__, batch_size=None, batch_format="numpy")


@dataclass
class Survey:
    """What the documents make: ids alone, and where the chunks lie."""

    staged: list[tuple[Path, ChunkIds]] = field(default_factory=list)
    wanted: ChunkIds = field(default_factory=none)
    documents: int = 0
    faults: int = 0
    first: Fault | None = None
    broken_off: list[Fault] = field(default_factory=list)


def survey_documents(blocks: Any, files: int, collisions: list[Fault], spec: IndexSpec, context: JobContext) -> Survey:
    """Go through the blocks, and set aside what can't be used.

    Raises:
        DataError: Too much can't be used; or a table breaks off, and how much it held isn't known.
        InputError: A file may not be read.
        UnreachableError: A file can't be read now. What it held would be deleted, were it passed over.
    """
    survey = Survey()
    unread: list[TandemError] = []
    chunks = 0

    def set_aside(faults: list[Fault]) -> None:
        write_quarantine(context.quarantine_path, faults)
        survey.faults += len(faults)
        survey.first = survey.first or next(iter(faults), None)
        survey.broken_off += [fault for fault in faults if fault.open_ended]

    context.progress("read", 0, None, files=files)
    set_aside(collisions)
    for row in blocks.iter_rows():
        block: Staged = pickle.loads(row["staged"])
        set_aside(block.faults)
        unread += block.unread
        survey.documents += block.documents
        chunks += len(block.ids)
        if len(block.ids):
            survey.staged.append((block.path, block.ids))
        context.progress("read", survey.documents, None, files=files, chunks=chunks)
    if unread:
        # The one that a person must mend, else the one that another attempt may.
        worst = min(unread, key=lambda error: error.exit_status)
        others = f" (and {len(unread) - 1} of {files} files more)" if len(unread) > 1 else ""
        raise type(worst)(f"{worst.what}{others}", where=worst.where, remedy=worst.remedy) from worst
    where, path = ", ".join(source.uri for source in spec.sources), context.quarantine_path
    check_complete(survey.broken_off, spec.max_quarantined, what="documents", path=path)
    total = survey.documents + survey.faults
    check_share(survey.faults, survey.first, total, spec.max_quarantined, what="documents", where=where, path=path)
    survey.wanted = union(ids for _, ids in survey.staged)
    context.progress("read", total, total, files=files, chunks=len(survey.wanted))
    return survey
