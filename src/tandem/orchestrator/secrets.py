"""The secrets of a cluster: made once, readable by their owner only, never in a spec or a log."""

from __future__ import annotations

import getpass
import json
import re
import secrets

from tandem.config.api_keys import KEY_BYTES, digest, new_key
from tandem.config.cluster import Cluster
from tandem.config.files import write_whole
from tandem.orchestrator.roles import SERVER_KEYS, make_server_keys

# The one key of a new cluster belongs to whoever runs it: no tenant restricts what it sees.
DEFAULT_TENANT = "*"


def make_secrets(cluster: Cluster) -> None:
    """Write what isn't there yet: Ray's token (local clusters), the API key, and what it allows.

    To the server it is an admin's, in the name of whoever runs this; to the endpoint one of all tenants.
    """
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
    make_server_keys(cluster.storage / SERVER_KEYS, cluster.api_key(), _user())


def _user() -> str:
    """The account's name, as a key may be named."""
    try:
        name = re.sub(r"[^A-Za-z0-9._@-]", "-", getpass.getuser())[:60]
    except (KeyError, OSError):
        # In a container the account may have no name.
        name = ""
    return name if name[:1].isalnum() else "admin"
