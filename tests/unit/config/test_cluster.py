"""Every command finds the cluster by one file, and says what to do when there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.config.cluster import Cluster, without_password
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


def test_what_another_version_or_a_full_disk_left_is_no_traceback(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"storage": "/a"}'):
        (tmp_path / "cluster.json").write_text(text)
        with pytest.raises(UnreachableError, match="run `tandem down`, then `tandem up`"):
            Cluster.load(tmp_path)


def test_a_database_password_is_neither_read_by_others_nor_shown(tmp_path: Path) -> None:
    url = "postgresql://tandem:secret@db/tandem"
    path = replace(cluster(tmp_path), database_url=url).save()
    assert path.stat().st_mode & 0o777 == 0o600
    assert without_password(url) == "postgresql://***@db/tandem"
    assert without_password("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"
