"""What Ray Data makes of an index job's files, made in this process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

from tandem.retrieval.indexing import InputFile
from tandem.retrieval.staging import Stage, read


class Blocks:
    """As Ray Data's, without Ray: one for each file."""

    def __init__(self, files: list[InputFile], stage: Stage) -> None:
        self._files, self._stage = files, stage

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for file in self._files:
            rows = list(read({"file": pickle.dumps(file)}))
            (staged,) = self._stage({name: [row[name] for row in rows] for name in ("file", "found")})["staged"]
            yield {"staged": staged}
