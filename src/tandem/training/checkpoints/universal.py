"""A DeepSpeed checkpoint for another number of workers: universal checkpoints (Lian et al., arXiv 2406.18820).

ZeRO cuts optimizer state and master weights into one share per worker. The conversion puts the shares of each
parameter together under the parameter's name, from where any number of workers takes theirs.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What a save hands to DeepSpeed as client state, so that the checkpoint can be converted.
UNIVERSAL_INFO = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


def convert(source: Path, target: Path) -> None:
    """Write a ZeRO checkpoint as a universal one, in this process; one worker calls it.

    Frozen parameters may be left out of the source: they are then left out of the target.

    Args:
        source: The folder of a tag, with the files of all workers.
        target: A folder that isn't there yet.
    """
    from deepspeed.checkpoint import ds_to_universal

    options = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,  # in this process: a pool of others would import torch once each
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # It reports by print and progress bars.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)


@contextmanager
def loading_universal(engine: Any) -> Iterator[None]:
    """Within, the engine's `load_checkpoint` takes universal checkpoints.

    DeepSpeed has it as a setting of the engine (``{"checkpoint": {"load_universal": true}}``), but which kind is
    loaded is known when the engine is there: a run may load its last checkpoint as it is, and the best one of others.
    """
    config = engine._config
    config.load_universal_checkpoint = True
    try:
        yield
    finally:
        config.load_universal_checkpoint = False
