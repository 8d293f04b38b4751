"""As much of kustomize as k8s/ uses: resources, namespace, images and inline JSON6902 patches; the rest is refused.

CI has no kustomize binary; where `kubectl` is installed, a test holds this against `kubectl kustomize`.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import yaml

_KNOWN = {"apiVersion", "kind", "resources", "namespace", "images", "patches"}
_CLUSTER_SCOPED = {"Namespace"}

Resource = dict[str, Any]


def build(folder: Path) -> list[Resource]:
    """The resources that `kubectl kustomize FOLDER` prints, in the order in which the files list them.

    Args:
        folder: A folder with a kustomization.yaml.

    Raises:
        ValueError: A field that isn't implemented here, or a patch that has no target.
    """
    spec = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(spec) - _KNOWN:
        raise ValueError(f"{folder}: {sorted(unknown)} isn't implemented here")
    resources: list[Resource] = []
    for entry in spec.get("resources", []):
        path = folder / entry
        resources += build(path) if path.is_dir() else _documents(path)
    for patch in spec.get("patches", []):
        resources = _patched(resources, patch, folder)
    for resource in resources:
        if "namespace" in spec and resource["kind"] not in _CLUSTER_SCOPED:
            resource["metadata"]["namespace"] = spec["namespace"]
        for image in spec.get("images", []):
            _set_image(resource, image)
    return resources


def apply_json_patch(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902, without `move` and `copy`.

    Raises:
        LookupError: A path that doesn't exist, or a `test` that fails.
        ValueError: An operation that isn't implemented.
    """
    document = copy.deepcopy(document)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        node = document
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        at: Any = last if isinstance(node, dict) else (len(node) if last == "-" else int(last))
        match operation["op"]:
            case "add" if isinstance(node, list):
                node.insert(at, operation["value"])
            case "add":
                node[at] = operation["value"]
            case "replace":
                del node[at]  # RFC 6902: what is replaced must exist
                node.insert(at, operation["value"]) if isinstance(node, list) else node.update({at: operation["value"]})
            case "remove":
                del node[at]
            case "test":
                if node[at] != operation["value"]:
                    raise LookupError(f"{operation['path']} is {node[at]!r}, not {operation['value']!r}")
            case other:
                raise ValueError(f"operation {other!r} isn't implemented here")
    return document


def _patched(resources: list[Resource], patch: dict[str, Any], folder: Path) -> list[Resource]:
    operations = yaml.safe_load(patch["patch"])
    if not isinstance(operations, list):
        raise ValueError(f"{folder}: only JSON6902 patches are implemented here")
    target = patch["target"]
    hit = [r for r in resources if all(target.get(key, value) == value for key, value in _identity(r).items())]
    if not hit:
        raise ValueError(f"{folder}: no resource matches {target}")
    return [apply_json_patch(r, operations) if r in hit else r for r in resources]


def _documents(path: Path) -> list[Resource]:
    """The YAML documents of a file; aliases become copies, so that a patch of one place leaves the others alone."""
    return [json.loads(json.dumps(document)) for document in yaml.safe_load_all(path.read_text()) if document]


def _identity(resource: Resource) -> dict[str, str]:
    return {"kind": resource["kind"], "name": resource["metadata"]["name"]}


def _set_image(node: Any, image: dict[str, str]) -> None:
    """Rewrites `image:` under `containers` and `initContainers`, wherever they stand."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                for container in value:
                    name, tag = re.fullmatch(r"(.*?)((?:[:@][^/]*)?)", container["image"]).groups()
                    if name == image["name"]:
                        tag = f":{image['newTag']}" if "newTag" in image else tag
                        container["image"] = image.get("newName", name) + tag
            else:
                _set_image(value, image)
    elif isinstance(node, list):
        for item in node:
            _set_image(item, image)
