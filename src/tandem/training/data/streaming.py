"""Rows from files to tokens, a batch at a time: in this process where that is quick, else on the cluster by Ray Data.

Neither way holds the set, and both give the same batches in the same order.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tandem.data.sources import DataFile
from tandem.training.data.encoding import Encode, Encoded, Located, Retrieve, read

CLUSTER_BYTES = 32 * 1024**2  # files larger than this together are worth the seconds that Ray Data takes to start
BLOCK_BYTES = 4 * 1024**2  # of rows in a block of Ray Data: small, so that one large file is encoded by many
_READER_CPUS = 0.5  # other than an encoder's, so that Ray Data doesn't fuse the two and read with one hand


def stream(
    files: Sequence[DataFile], encode: Encode, make_retrieve: Callable[[], Retrieve] | None, *, cluster_bytes: int
) -> Iterator[list[Encoded]]:
    """All rows of the files, in the order of files and lines.

    Args:
        files: What `list_data_files` gave.
        encode: Makes tokens.
        make_retrieve: Makes what gives questions their passages; None without retrieval.
        cluster_bytes: Sets that are larger are read and encoded by Ray Data; this process must be connected then.

    Raises:
        DataError: A file can't be read.
        ModelError: The tokenizer can't be used.
    """
    if sum(file.size for file in files) > cluster_bytes:
        yield from _on_cluster(files, encode, make_retrieve)
        return
    retrieve = make_retrieve() if make_retrieve is not None else None
    for file in files:
        for batch in read(file):
            yield encode(retrieve(batch) if retrieve is not None else batch)


def _on_cluster(
    files: Sequence[DataFile], encode: Encode, make_retrieve: Callable[[], Retrieve] | None
) -> Iterator[list[Encoded]]:
    import ray.data
    from ray.exceptions import RayTaskError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    context.retry_exceptions = False
    rows = ray.data.from_items([{"batch": pickle.dumps(file)} for file in files], override_num_blocks=len(files))
    rows = rows.map_batches(_read, batch_size=1, num_cpus=_READER_CPUS)
    if make_retrieve is not None:
        rows = rows.map_batches(_Retrieving, fn_constructor_args=(make_retrieve,), batch_size=1, concurrency=1)
    rows = rows.map_batches(_Encoding, fn_constructor_args=(encode,), batch_size=1, concurrency=(1, _encoders()))
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row["batch"])
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None


def _encoders() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)


def _read(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for packed in batch["batch"]:
        for rows in read(pickle.loads(packed)):
            yield _packed(rows)


class _Retrieving:
    def __init__(self, make_retrieve: Callable[[], Retrieve]) -> None:
        self._retrieve = make_retrieve()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return _packed(*(self._retrieve(pickle.loads(rows)) for rows in batch["batch"]))


class _Encoding:
    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return _packed(*(self._encode(pickle.loads(rows)) for rows in batch["batch"]))


def _packed(*batches: list[Located] | list[Encoded]) -> dict[str, Any]:
    # Rows of Ray Data are ours a batch each, and bytes to it: it has no type for a list of lists of tokens.
    return {"batch": [pickle.dumps(rows, protocol=pickle.HIGHEST_PROTOCOL) for rows in batches]}
