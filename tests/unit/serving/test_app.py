from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins.world import make_cluster
from tiny_models import write_tokenizer
from unit.models.engines.test_prompting import NO_SYSTEM

from tandem.config.cluster import STORAGE_VARIABLE
from tandem.errors import SpecError
from tandem.serving.app import build, read_spec, worker_bundles

ARGS = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}}


def test_wrong_arguments_are_named():
    with pytest.raises(SpecError, match=r"args\.retriever\.top_k"):
        read_spec({**ARGS, "retriever": {"collection": "docs", "top_k": 0}})


def test_a_system_prompt_that_the_models_template_refuses_fails_the_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cluster(tmp_path).save()
    monkeypatch.setenv(STORAGE_VARIABLE, str(tmp_path))
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "chat_template.jinja").write_text(NO_SYSTEM)
    with pytest.raises(SpecError, match=r"System role not supported.*prompt\.system"):
        build({**ARGS, "model": str(tmp_path)})


@pytest.mark.parametrize(
    ("gpus", "bundles"),
    [
        (0.0, [{"CPU": 4.0}]),
        (0.25, [{"CPU": 4.0, "GPU": 0.25}]),
        (1.0, [{"CPU": 4.0, "GPU": 1.0}]),
        (2.0, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]),
    ],
)
def test_each_of_several_gpus_has_a_worker(gpus, bundles):
    assert worker_bundles(4.0, gpus) == bundles
