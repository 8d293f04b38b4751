"""Every command finds the cluster by one file, and says what to do when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.config.cluster import Cluster
from tandem.errors import UnreachableError


def cluster(storage: Path) -> Cluster:
    return Cluster(
        storage=storage,
        ray_address="127.0.0.1:6379",
        dashboard_url="http://127.0.0.1:8265",
        server_url="http://127.0.0.1:8400",
        endpoint_url="http://127.0.0.1:8000",
        database_url="sqlite://",
        mlflow_uri="sqlite://",
        api_key_file=storage / "api-key",
        ray_token_file=storage / "ray-token",
        pids={"server": 7},
    )


def test_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(tmp_path).save()
    assert Cluster.load(tmp_path) == cluster(tmp_path)
    monkeypatch.setenv("TANDEM_STORAGE", str(tmp_path))
    assert Cluster.load() == cluster(tmp_path)


def test_none_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreachableError, match="run `tandem up`") as caught:
        Cluster.load()
    assert caught.value.exit_status == 3


def test_secrets_are_by_reference(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("very-secret\n")
    saved = cluster(tmp_path)
    assert saved.api_key() == "very-secret"
    assert "very-secret" not in saved.save().read_text()
    assert saved.ray_env()["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray-token")
