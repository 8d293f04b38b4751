"""Which processes answer for an application on Ray Serve."""

from __future__ import annotations


def replicas(app: str) -> dict[str, list[int]]:
    """Process ids of an application's replicas, by deployment."""
    import ray
    from ray.util.state import list_actors

    # There may be other clusters on this machine.
    address = ray.get_runtime_context().gcs_address
    found: dict[str, list[int]] = {}
    for actor in list_actors(address, filters=[("state", "=", "ALIVE")], limit=1000):
        parts = str(actor.class_name).split(":")
        if parts[0] == "ServeReplica" and parts[1] == app:
            found.setdefault(parts[2], []).append(int(actor.pid))
    return found
