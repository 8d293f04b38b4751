"""The secrets of a cluster: made once, readable by their owner only, never in a spec or a log."""

from __future__ import annotations

import json
import secrets

from tandem.config.api_keys import KEY_BYTES, digest, new_key
from tandem.config.cluster import Cluster
from tandem.config.files import write_whole

# The one key of a new cluster belongs to whoever runs it: no tenant restricts what it sees.
DEFAULT_TENANT = "*"


def make_secrets(cluster: Cluster) -> None:
    """Write what isn't there yet: Ray's token (local clusters), the API key, and the tenants by hash of their key."""
    if cluster.local and cluster.ray_token_file is not None and not cluster.ray_token_file.exists():
        write_whole(cluster.ray_token_file, secrets.token_hex(KEY_BYTES), private=True)
    if not cluster.api_key_file.exists():
        write_whole(cluster.api_key_file, new_key() + "\n", private=True)
    tenants_file = cluster.storage / "api-keys.json"
    tenants: dict[str, str] = json.loads(tenants_file.read_text()) if tenants_file.exists() else {}
    hashed = digest(cluster.api_key())
    if hashed not in tenants:
        tenants[hashed] = DEFAULT_TENANT
        write_whole(tenants_file, json.dumps(tenants, indent=2) + "\n", private=True)
