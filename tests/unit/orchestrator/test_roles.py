"""Keys of the server: hashed, taken back at once, and never fewer than the cluster's own."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tandem.errors import ConflictError, InputError, NotFoundError
from tandem.orchestrator.roles import Role, ServerKeys, account


def keys_in(folder: Path) -> ServerKeys:
    return ServerKeys(folder / "server-keys.json", "own", "ada")


def test_a_key_is_known_until_it_is_taken_back(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    key, made = keys.add("bob", Role.SUBMITTER)
    assert keys.holder(key) == made
    # Another process, or the same after a start.
    other = keys_in(tmp_path)
    assert other.holder(key) == made
    keys.revoke("bob")
    assert keys.holder(key) is None
    assert other.holder(key) is None
    with pytest.raises(NotFoundError):
        keys.revoke("bob")


def test_the_clusters_own_key_is_an_admins_and_stays(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    owner = keys.holder("own")
    assert owner is not None
    assert (owner.name, owner.role) == ("ada", Role.ADMIN)
    for change in (lambda: keys.revoke("ada"), lambda: keys.add("ada", Role.ADMIN)):
        with pytest.raises(ConflictError):
            change()
    assert [holder.name for holder in keys.holders()] == ["ada"]


def test_the_file_has_no_key_and_is_its_owners(tmp_path: Path) -> None:
    key, _ = keys_in(tmp_path).add("bob", Role.VIEWER)
    file = tmp_path / "server-keys.json"
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", ["", "[]", '{"ab": "admin"}', '{"ab": {"name": "a b", "role": "admin", "created_at": ""}}']
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "server-keys.json").write_text(text)
    with pytest.raises(InputError, match=r"server-keys\.json"):
        keys_in(tmp_path)


def test_a_file_that_is_broken_later_locks_nobody_out(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    key, _ = keys.add("bob", Role.VIEWER)
    file = tmp_path / "server-keys.json"
    whole = file.read_text()
    file.write_text(whole[:20])
    assert keys.holder(key) is not None
    file.write_text(json.dumps({}))
    assert keys.holder(key) is None


def test_roles_cover_those_before_them() -> None:
    assert [[one.covers(other) for other in Role] for one in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_the_account_may_be_named_by_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, name in (("DOM\\ada lovelace", "DOM-ada-lovelace"), ("_x", "admin"), ("", "admin")):
        monkeypatch.setattr("getpass.getuser", lambda said=found: said)
        assert account() == name
