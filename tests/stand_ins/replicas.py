"""Which processes answer for an application on Ray Serve."""

from __future__ import annotations


def replicas(app: str) -> dict[str, list[int]]:
    """Process ids of an application's replicas, by deployment."""
    from ray.util.state import list_actors

    found: dict[str, list[int]] = {}
    for actor in list_actors(filters=[("state", "=", "ALIVE")], limit=1000):
        parts = str(actor.class_name).split(":")
        if parts[0] == "ServeReplica" and parts[1] == app:
            found.setdefault(parts[2], []).append(int(actor.pid))
    return found
