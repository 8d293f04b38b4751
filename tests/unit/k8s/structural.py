"""What the API server does to a custom resource before it stores it, in the server's order.

A CRD's schema is *structural*: OpenAPI v3 with ``x-kubernetes-*`` extensions. The server drops nulls that no schema
allows, fills defaults, and only then checks types, ``required`` and the rest; with field validation ``Strict``
(kubectl's default) it also refuses unknown fields. Source: Kubernetes, "Extend the Kubernetes API with
CustomResourceDefinitions", sections "Specifying a structural schema", "Defaulting and Nullable" and "Field pruning".
CEL rules (``x-kubernetes-validations``) and formats other than int32 aren't evaluated here.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]

# What every object, and every embedded resource, has whatever its schema lists.
_STRING = {"type": "string"}
_IMPLIED: Schema = {"apiVersion": _STRING, "kind": _STRING, "metadata": {"type": "object"}}
_NOT_JSON_SCHEMA = ("nullable", "format", "default")
_INT32 = {"minimum": -(2**31), "maximum": 2**31 - 1}


def load_crd(path: Path, version: str) -> tuple[str, Schema]:
    """The kind that a CustomResourceDefinition declares and the schema of one served version.

    Args:
        path: The CRD's YAML file.
        version: Such as ``v1``.

    Returns:
        The kind and its ``openAPIV3Schema``.

    Raises:
        LookupError: The CRD doesn't serve that version.
    """
    spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
    for entry in spec["versions"]:
        if entry["name"] == version and entry["served"]:
            return spec["names"]["kind"], entry["schema"]["openAPIV3Schema"]
    raise LookupError(f"{path.name} doesn't serve {version}")


def admit(resource: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """A copy of the resource as the server validates it: nulls dropped, defaults filled in."""
    resource = copy.deepcopy(resource)
    _drop_nulls(resource, schema)
    _fill_defaults(resource, schema)
    return resource


def faults(resource: dict[str, Any], schema: Schema) -> list[str]:
    """Why the API server would refuse the resource: one line per fault, none when it would take it."""
    admitted = admit(resource, schema)
    root = {**schema, "x-kubernetes-embedded-resource": True}  # the root implies the same fields
    validator = jsonschema.Draft202012Validator(_strict(root))
    found = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(admitted)]
    return sorted(found + _repeated_keys(admitted, schema, "$"))


def _drop_nulls(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        for key in list(value):
            child = _child(schema, key)
            if child is None:
                continue
            if value[key] is None and not child.get("nullable") and "default" not in child:
                del value[key]
            else:
                _drop_nulls(value[key], child)
    elif isinstance(value, list):  # a null among a list's items stays, and is a fault
        for item in value:
            _drop_nulls(item, schema.get("items", {}))


def _fill_defaults(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        for key, child in schema.get("properties", {}).items():
            if "default" in child and (key not in value or (value[key] is None and not child.get("nullable"))):
                value[key] = copy.deepcopy(child["default"])
        for key in value:
            child = _child(schema, key)
            if child is not None:
                _fill_defaults(value[key], child)
    elif isinstance(value, list):
        for item in value:
            _fill_defaults(item, schema.get("items", {}))


def _child(schema: Schema, key: str) -> Schema | None:
    """The schema of one key of an object; None where the schema says nothing about it."""
    if key in schema.get("properties", {}):
        return schema["properties"][key]
    rest = schema.get("additionalProperties")
    return rest if isinstance(rest, dict) else None


def _strict(schema: Schema) -> Schema:
    """The same schema as JSON Schema 2020-12 in which unknown fields are faults."""
    out = {key: rule for key, rule in schema.items() if not key.startswith("x-") and key not in _NOT_JSON_SCHEMA}
    if schema.get("x-kubernetes-int-or-string"):
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("type") == "integer" and schema.get("format") == "int32":
        out = {**_INT32, **out}
    if schema.get("type") == "object" or "properties" in schema:
        out["properties"] = {key: _strict(child) for key, child in schema.get("properties", {}).items()}
        rest = schema.get("additionalProperties")
        if isinstance(rest, dict):
            out["additionalProperties"] = _strict(rest)
        elif rest is None:
            out["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        if schema.get("x-kubernetes-embedded-resource"):
            # ObjectMeta's own fields are checked by kubernetes-validate: a CRD's schema doesn't list them.
            out["properties"] |= _IMPLIED
            out["required"] = sorted({*schema.get("required", []), *_IMPLIED})
    if "items" in schema:
        out["items"] = _strict(schema["items"])
    # Inside anyOf and the like a structural schema has value checks only, no fields of its own: nothing to make strict.
    if schema.get("nullable"):
        return {"anyOf": [out, {"type": "null"}]}
    return out


def _repeated_keys(value: Any, schema: Schema, where: str) -> list[str]:
    """Faults of lists that are maps (by ``x-kubernetes-list-map-keys``) or sets."""
    found: list[str] = []
    if isinstance(value, dict):
        for key, item in value.items():
            child = _child(schema, key)
            if child is not None:
                found += _repeated_keys(item, child, f"{where}.{key}")
    elif isinstance(value, list):
        kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", [])
        seen: list[Any] = []
        for number, item in enumerate(value):
            if kind in ("map", "set"):
                identity = [item.get(key) for key in keys] if kind == "map" and isinstance(item, dict) else item
                if identity in seen:
                    found.append(f"{where}[{number}]: a second item with {identity!r}")
                seen.append(identity)
            found += _repeated_keys(item, schema.get("items", {}), f"{where}[{number}]")
    return found
