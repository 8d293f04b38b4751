from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import SpecError
from tandem.serving import replicas
from tandem.serving.replicas import Ingress

SPEC = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs", "top_k": 2}}


class Handle:
    def options(self, **_: object) -> Handle:
        return self


@pytest.fixture
def ingress(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> Ingress:
    monkeypatch.setattr(replicas, "load_tokenizer", lambda _: None)
    return Ingress(SPEC, "m", str(keys_file), retriever=Handle(), llm=Handle())


def test_what_a_running_replica_takes_over(ingress: Ingress) -> None:
    ingress.reconfigure({"retriever": {"collection": "docs", "top_k": 7}})
    assert ingress._service.spec.retriever.top_k == 7
    # What isn't said any more is as the application's args say.
    ingress.reconfigure({})
    assert ingress._service.spec.retriever.top_k == 2


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"model": "other"}, "can't change while it runs: model"),
        ({"retriever": {"collection": "docs", "top_k": "many"}}, r"retriever\.top_k"),
        ({"retriever": {"collection": "others"}}, "another collection needs a new retriever"),
    ],
)
def test_what_needs_a_new_replica_or_is_wrong_is_refused_and_nothing_changes(
    ingress: Ingress, user_config: dict, message: str
) -> None:
    before = ingress._service
    with pytest.raises(SpecError, match=message):
        ingress.reconfigure(user_config)
    assert ingress._service is before
