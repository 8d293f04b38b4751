"""Deploying from the client's side: paths made absolute, then waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.cli.follow import wait_for_app
from tandem.cli.output import note
from tandem.errors import InvalidSpecError

# From a start on a cold disk to a loaded model: vLLM took 87 s on two cores.
DEPLOY_TIMEOUT_S = 600.0

if TYPE_CHECKING:
    from tandem.cli.client import Client


def absolute_config(file: Path, overrides: list[str]) -> dict[str, Any]:
    """A checked Serve config whose local paths are absolute: replicas run in another folder.

    Raises:
        InvalidSpecError: Everything that is wrong with it or its inputs.
    """
    from tandem.orchestrator.preflight import absolute, missing_inputs
    from tandem.specs.loading import load_serve_config

    loaded = load_serve_config(file, overrides)
    applications = []
    faults = []
    for application in loaded.config["applications"]:
        spec = loaded.specs.get(application["name"])
        if spec is None:
            applications.append(application)
            continue
        arguments = absolute(spec.canonical(), Path.cwd())
        faults += missing_inputs(arguments, where=f"{file}: {application['name']}")
        applications.append({**application, "args": arguments})
    if faults:
        raise InvalidSpecError(faults)
    return {**loaded.config, "applications": applications}


def deploy_and_wait(client: Client, config: dict[str, Any], *, timeout_s: float | None) -> list[dict[str, Any]]:
    """Deploy a config.

    Args:
        client: Of the server.
        config: Its local paths are absolute.
        timeout_s: Seconds to wait for each application; None: don't wait.

    Returns:
        The applications as they stand.

    Raises:
        TandemError: One didn't start.
    """
    before = {app["name"]: app["deployed_at"] for app in client.apps()}
    handed = client.deploy(config)
    for line in handed["notes"]:
        note(line)
    names = handed["applications"]
    if timeout_s is not None:
        for name in names:
            wait_for_app(client, name, timeout_s=timeout_s, before=before.get(name, 0.0))
    return [app for app in client.apps() if app["name"] in names]
