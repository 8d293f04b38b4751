"""How an application stands, out of what Ray Serve says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

# What Serve says of a deployment whose replica raised in its constructor; it goes on trying for minutes.
REPLICA_FAILED = ("failed to start", "Exception raised in", "constructor failed")

Verdict = Literal["running", "waiting", "failed"]


@dataclass(frozen=True)
class AppStatus:
    """How an application stands.

    Attributes:
        name: Of the application.
        state: Ray Serve's word for it.
        verdict: Ours: Serve calls a version that can't start DEPLOYING for a long time.
        message: Why, in one line.
        url: Where it answers.
        deployed_at: Seconds since the epoch of the last deploy, by which a new version is told from the old one.
        replicas: Running replicas by deployment.
    """

    name: str
    state: str
    verdict: Verdict
    message: str
    url: str
    deployed_at: float
    replicas: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def judge(current: Mapping[str, Any], name: str, endpoint_url: str) -> AppStatus:
    """What Serve's details of an application come to.

    Args:
        current: What Serve's GET returned.
        name: An application in it.
        endpoint_url: Where Serve listens.
    """
    details: Mapping[str, Any] = current["applications"][name]
    state = str(details.get("status", "NOT_STARTED"))
    deployments: Mapping[str, Any] = details.get("deployments") or {}
    messages = [str(deployment.get("message") or "") for deployment in deployments.values()]
    broken = [text for text in messages if any(sign in text for sign in REPLICA_FAILED)]
    verdict: Verdict = "waiting"
    message = str(details.get("message") or "")
    proxies = [str(proxy.get("status")) for proxy in (current.get("proxies") or {}).values()]
    if state == "RUNNING" and proxies and "HEALTHY" not in proxies:
        # Replicas that nobody can reach: Serve calls that RUNNING.
        message = f"Ray Serve's HTTP proxy is {', '.join(proxies)}"
    elif state == "RUNNING":
        verdict = "running"
    elif state in ("DEPLOY_FAILED", "UNHEALTHY") or broken:
        verdict, message = "failed", (broken or [message])[0]
    return AppStatus(
        name=name,
        state=state,
        verdict=verdict,
        message=cause_line(message),
        url=endpoint_url.rstrip("/") + str(details.get("route_prefix") or "/").rstrip("/"),
        deployed_at=float(details.get("last_deployed_time_s") or 0.0),
        replicas={
            key: sum(replica.get("state") == "RUNNING" for replica in deployment.get("replicas") or [])
            for key, deployment in deployments.items()
        },
    )


def cause_line(message: str) -> str:
    """The line of a message that says why: of a traceback the exception, else the first."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    raised = [line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception"))]
    return (raised[-1] if raised and "Traceback" in message else lines[0])[:500]
