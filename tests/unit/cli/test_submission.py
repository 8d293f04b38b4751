"""What a job brings along: it reaches Ray, and secrets reach no record."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from stand_ins.shell import Shell

from tandem.orchestrator.executor import entrypoint
from tandem.orchestrator.jobs import Job


def started(shell: Shell, job_id: str) -> dict[str, Any]:
    """The runtime environment that Ray was given."""
    shell.world.orchestrator.step()
    return shell.world.ray.runtime_envs[shell.world.records.get(job_id).submission_id]


def submitted(shell: Shell, *arguments: str) -> Job:
    result = shell("submit", *arguments)
    assert result.exit_code == 0, result.stderr
    return shell.world.records.get(result.stdout.strip())


def test_options_and_the_spec_say_the_same(shell: Shell, index_file: Path, tmp_path: Path) -> None:
    by_options = submitted(shell, str(index_file), "--env", "A=1", "--env", "B=x=y", "--pip", "nltk==3.9", "--pip", "m")
    stated = tmp_path / "stated.yaml"
    stated.write_text(index_file.read_text() + "runtime: {env: {A: 1, B: x=y}, pip: [nltk==3.9, m]}\n")
    assert submitted(shell, str(stated)).id == by_options.id
    assert submitted(shell, str(stated), "--env", "A=2").id != by_options.id
    environment = started(shell, by_options.id)
    assert environment["pip"] == ["nltk==3.9", "m"]
    assert {"A": "1", "B": "x=y"}.items() <= environment["env_vars"].items()
    assert environment["env_vars"]["TANDEM_ATTEMPT"] == "1"
    # Its own interpreter finds what was installed for it.
    assert shell.world.ray.entrypoints[f"{by_options.id}.1"].startswith("exec python -m tandem.runner")


def test_without_packages_the_interpreter_is_the_clusters(shell: Shell) -> None:
    assert entrypoint(shell.world.cluster, Path("/j")).startswith("exec /")
    assert entrypoint(shell.world.cluster, Path("/j"), own_python=True) == "exec python -m tandem.runner /j"


def everything_kept(shell: Shell) -> str:
    """All that lies in the storage folder, but what is the server's alone."""
    files = [
        path for path in shell.world.cluster.storage.rglob("*") if path.is_file() and path.parent.name != "secrets"
    ]
    return "".join(path.read_bytes().decode(errors="replace") for path in files)


def test_a_secret_reaches_the_job_and_no_record(
    shell: Shell, index_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    job = submitted(shell, str(index_file), "--env", "HF_TOKEN")
    (kept,) = (shell.world.cluster.storage / "secrets").iterdir()
    assert (kept.stat().st_mode & 0o077, kept.parent.stat().st_mode & 0o077) == (0, 0)
    assert started(shell, job.id)["env_vars"]["HF_TOKEN"] == "hf_very_secret"
    # An attempt after the server's death has it too.
    shell.world.ray.forget()
    shell.world.restart()
    shell.world.orchestrator.step()
    shell.world.now += 600
    assert started(shell, job.id)["env_vars"]["HF_TOKEN"] == "hf_very_secret"
    assert "hf_very_secret" not in everything_kept(shell)
    assert "hf_very_secret" not in json.dumps(shell.client().job(job.id))
    # Another value is no other job.
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert submitted(shell, str(index_file), "--env", "HF_TOKEN").id == job.id
    shell.world.records.request_stop(job.id)
    for _ in range(2):
        shell.world.orchestrator.step()
    assert shell.world.state(job) == "STOPPED"
    assert not kept.exists()


def test_a_secret_that_is_not_set_or_stands_in_the_spec_is_refused(shell: Shell, index_file: Path) -> None:
    for words, said in [
        (["--env", "NOT_SET_HERE"], "not set in this environment: NOT_SET_HERE"),
        (["--env", "HF_TOKEN=abc"], "looks like a secret"),
        (["--env", "RAY_ADDRESS=x"], "say which cluster"),
        (["--env", "=x"], "no variable's name"),
    ]:
        result = shell("submit", str(index_file), *words)
        assert result.exit_code == 2
        assert said in result.stderr
    assert shell.world.records.find() == []


def test_a_working_directory_travels_and_inputs_in_it_are_read_from_there(
    shell: Shell, index_file: Path, docs: Path, tmp_path: Path
) -> None:
    (tmp_path / ".rayignore").write_text("storage/\n")
    job = submitted(shell, str(index_file), "--working-dir", str(tmp_path))
    named = job.spec["runtime"]["working_dir"]
    assert named.startswith("package:")
    assert [source["uri"] for source in job.spec["sources"]] == ["docs"]
    environment = started(shell, job.id)
    package = Path(environment["working_dir"].removeprefix("file://"))
    assert package.is_relative_to(shell.world.cluster.storage)
    assert "working_dir/docs/a.md" in zipfile.ZipFile(package).namelist()
    # The same content is the same job, wherever it lies; and its record is enough to run it again.
    assert (
        json.loads(shell("plan", str(index_file), f"runtime.working_dir={tmp_path}", "--json").stdout)["id"] == job.id
    )
    assert submitted(shell, str(index_file), f"runtime.working_dir={tmp_path}").id == job.id
    (docs / "a.md").write_text("# B\n")
    assert submitted(shell, str(index_file), "--working-dir", str(tmp_path)).id != job.id


def test_an_input_that_is_left_out_is_refused(shell: Shell, index_file: Path, tmp_path: Path) -> None:
    (tmp_path / ".rayignore").write_text("storage/\ndocs/\n")
    result = shell("submit", str(index_file), "--working-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "docs is left out of the working directory" in result.stderr


@pytest.mark.parametrize(
    ("folder", "said"), [("/some/where", "a folder of another machine"), ("package:" + "0" * 64, "the server has no")]
)
def test_the_server_refuses_a_folder_that_it_does_not_have(
    shell: Shell, index_file: Path, folder: str, said: str
) -> None:
    spec = {"kind": "index", "name": "docs", "sources": ["/docs"], "runtime": {"working_dir": folder}}
    with pytest.raises(Exception, match=said):
        shell.client().submit(spec)
    with pytest.raises(Exception, match="values were sent that the spec doesn't name"):
        shell.client().submit({**spec, "runtime": {}}, secrets={"A": "1"})
    with pytest.raises(Exception, match="no value was sent for A"):
        shell.client().submit({**spec, "runtime": {"env": {"A": None}}})


def test_a_package_that_was_deleted_ends_the_job_with_what_to_do(
    shell: Shell, index_file: Path, tmp_path: Path
) -> None:
    (tmp_path / ".rayignore").write_text("storage/\n")
    job = submitted(shell, str(index_file), "--working-dir", str(tmp_path))
    for package in (shell.world.cluster.storage / "packages").iterdir():
        package.unlink()
    shell.world.orchestrator.step()
    ended = shell.client().job(job.id)
    assert (ended["state"], ended["reason"]) == ("FAILED", "start_failed")
    assert "the server has no package:" in ended["message"]
    assert "submit it from its folder again" in ended["message"]


def test_no_other_file_passes_for_a_package(shell: Shell) -> None:
    (shell.world.cluster.storage / "other.zip").write_text("")
    (shell.world.cluster.storage / "packages").mkdir()
    assert not shell.world.orchestrator.packages.has("../other")


def test_steps_of_a_pipeline_bring_along_what_is_theirs(
    shell: Shell, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".rayignore").write_text("storage/\n")
    one = {"kind": "index", "name": "a", "sources": ["docs"], "runtime": {"env": {"A_TOKEN": None}, "working_dir": "."}}
    two = {"kind": "index", "name": "b", "sources": ["docs"]}
    spec = {"kind": "pipeline", "name": "p", "steps": {"one": {"spec": one}, "two": {"spec": two}}}
    (tmp_path / "p.yaml").write_text(json.dumps(spec))
    assert "not set in this environment: A_TOKEN" in shell("submit", "p.yaml").stderr
    monkeypatch.setenv("A_TOKEN", "hush-hush")
    pipeline = submitted(shell, "p.yaml")
    for _ in range(2):
        shell.world.orchestrator.step()
    jobs = {job.name: job for job in shell.world.records.find()}
    assert {job.user for job in jobs.values()} == {"ada"}
    own, other = (shell.world.ray.runtime_envs[f"{jobs[name].id}.1"] for name in "ab")
    assert own["env_vars"]["A_TOKEN"] == "hush-hush"
    assert jobs["a"].spec["sources"][0]["uri"] == "docs"
    assert own["working_dir"].startswith("file://")
    assert "A_TOKEN" not in other["env_vars"]
    assert "working_dir" not in other
    assert "hush-hush" not in everything_kept(shell)
    shell.client().stop(pipeline.id)
    for _ in range(4):
        shell.world.orchestrator.step()
    assert shell.world.state(pipeline) == "STOPPED"
    assert not list((shell.world.cluster.storage / "secrets").iterdir())
