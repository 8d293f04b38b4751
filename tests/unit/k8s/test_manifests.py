"""k8s/ as a Kubernetes API server with KubeRay's CRDs would judge it, without one."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tandem.config.cluster import Cluster
from tandem.orchestrator.settings import ServerSettings
from tandem.serving import readiness
from tandem.serving.openapi import document
from tandem.specs import ClusterSpec
from tests.unit.k8s import kustomize, structural

ROOT = Path(__file__).parents[3]
CRDS = ROOT.parent / "shared" / "kuberay-crds"
OVERLAYS = ("base", "overlays/cpu", "overlays/gpu")
KUBERNETES = ("1.34", "1.37")  # the oldest and the newest that we promise to run on

Resource = dict[str, Any]

needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's CRDs aren't at {CRDS}")


@functools.cache
def crd_schemas() -> dict[str, structural.Schema]:
    return dict(structural.load_crd(path, "v1") for path in sorted(CRDS.glob("ray.io_*.yaml")))


def core_faults(resource: Resource) -> list[str]:
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [error.message]
    return []


def faults(resource: Resource) -> list[str]:
    if not resource["apiVersion"].startswith("ray.io/"):
        return core_faults(resource)
    # A CRD says nothing of ObjectMeta: any core kind's schema knows it.
    metadata = core_faults({"apiVersion": "v1", "kind": "ConfigMap", "metadata": resource.get("metadata", {})})
    return metadata + structural.faults(resource, crd_schemas()[resource["kind"]])


@functools.cache
def built(folder: str) -> list[Resource]:
    return kustomize.build(ROOT / "k8s" / folder)


def resource(kind: str, name: str, folder: str = "overlays/cpu") -> Resource:
    (found,) = (r for r in built(folder) if r["kind"] == kind and r["metadata"]["name"] == name)
    return copy.deepcopy(found)


def pod_templates(folder: str) -> dict[str, Resource]:
    templates: dict[str, Resource] = {}
    for item in built(folder):
        name, spec = f"{item['kind']}/{item['metadata']['name']}", item.get("spec", {})
        if item["kind"] in ("Deployment", "StatefulSet"):
            templates[name] = spec["template"]
        elif item["kind"] in ("RayCluster", "RayService"):
            cluster = spec.get("rayClusterConfig", spec)
            templates[f"{name}/head"] = cluster["headGroupSpec"]["template"]
            templates |= {f"{name}/{group['groupName']}": group["template"] for group in cluster["workerGroupSpecs"]}
    return templates


# --- every manifest is one that the API server takes


@pytest.mark.parametrize("folder", OVERLAYS)
def test_core_manifests_are_valid(folder: str) -> None:
    core = [r for r in built(folder) if not r["apiVersion"].startswith("ray.io/")]
    assert {r["kind"] for r in core} >= {"Namespace", "StatefulSet", "Deployment", "Service", "PodDisruptionBudget"}
    assert {f"{r['kind']}/{r['metadata']['name']}": faults(r) for r in core if faults(r)} == {}


@needs_crds
@pytest.mark.parametrize("folder", OVERLAYS)
def test_ray_manifests_are_valid(folder: str) -> None:
    ray = [r for r in built(folder) if r["apiVersion"].startswith("ray.io/")]
    assert [r["kind"] for r in ray] == ["RayCluster", "RayService"]
    assert {r["kind"]: faults(r) for r in ray if faults(r)} == {}


def head(cluster: Resource) -> Resource:
    return cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]


def unknown_field(cluster: Resource) -> None:
    cluster["spec"]["headGroupSpec"]["rayStartParam"] = {}


def unknown_field_deep_in_a_pod(cluster: Resource) -> None:
    head(cluster)["resources"]["limit"] = {"memory": "1Gi"}


def wrong_type(cluster: Resource) -> None:
    cluster["spec"]["workerGroupSpecs"][0]["replicas"] = "two"


def wrong_type_of_a_string(cluster: Resource) -> None:
    cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 2


def missing_required(cluster: Resource) -> None:
    del cluster["spec"]["workerGroupSpecs"][0]["groupName"]


def null_where_a_value_is_required(cluster: Resource) -> None:
    cluster["spec"]["workerGroupSpecs"][0]["template"] = None


def outside_the_enum(cluster: Resource) -> None:
    cluster["spec"]["authOptions"]["mode"] = "tokens"


def not_a_quantity(cluster: Resource) -> None:
    head(cluster)["resources"]["limits"]["memory"] = "8 gigabytes"


def name_twice(cluster: Resource) -> None:
    head(cluster)["env"].append(dict(head(cluster)["env"][0]))


def misspelt_metadata(cluster: Resource) -> None:
    cluster["metadata"]["label"] = {"a": "b"}


@needs_crds
@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (unknown_field, "rayStartParam"),
        (unknown_field_deep_in_a_pod, "limit"),
        (wrong_type, "'two' is not of type 'integer'"),
        (wrong_type_of_a_string, "2 is not of type 'string'"),
        (missing_required, "'groupName' is a required property"),
        (null_where_a_value_is_required, "'template' is a required property"),
        (outside_the_enum, "'tokens' is not one of"),
        (not_a_quantity, "8 gigabytes"),
        (name_twice, "a second item with ['TANDEM_STORAGE']"),
        (misspelt_metadata, "label"),
    ],
)
def test_a_planted_fault_in_a_ray_manifest_is_found(plant: Callable[[Resource], None], said: str) -> None:
    cluster = resource("RayCluster", "tandem")
    plant(cluster)
    assert any(said in fault for fault in faults(cluster)), faults(cluster)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/spec/replica", 1),  # unknown field
        ("/spec/replicas", "one"),  # wrong type
        ("/spec/template/spec/containers", None),  # missing what is required
        ("/spec/template/spec/containers/0/livenessProbe/httpGet/prt", 1),  # unknown field, deep
    ],
)
def test_a_planted_fault_in_a_core_manifest_is_found(path: str, value: Any) -> None:
    deployment = resource("Deployment", "tandem-server")
    operation = {"op": "remove", "path": path} if value is None else {"op": "add", "path": path, "value": value}
    assert core_faults(deployment) == []
    assert core_faults(kustomize.apply_json_patch(deployment, [operation])) != []


# --- the rules of the API server that the checks above rest on


SCHEMA: structural.Schema = {
    "type": "object",
    "required": ["port"],
    "properties": {
        "port": {
            "type": "object",
            "required": ["number", "protocol"],
            "properties": {
                "number": {"type": "integer", "format": "int32"},
                "protocol": {"type": "string", "default": "TCP"},
                "host": {"type": "string"},
                "since": {"type": "string", "nullable": True},
                "target": {"x-kubernetes-int-or-string": True},
                "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "object": {
                    "type": "object",
                    "x-kubernetes-embedded-resource": True,
                    "x-kubernetes-preserve-unknown-fields": True,
                },
                "items": {"type": "array", "items": {"type": "string"}},
            },
        }
    },
}


def port_faults(**port: Any) -> list[str]:
    return structural.faults({"apiVersion": "v1", "kind": "X", "metadata": {}, "port": port}, SCHEMA)


def test_defaults_are_filled_in_before_required_is_checked() -> None:
    assert port_faults(number=1) == []
    assert structural.admit({"port": {"number": 1}}, SCHEMA) == {"port": {"number": 1, "protocol": "TCP"}}


def test_nulls_are_dropped_or_become_the_default_but_stay_where_nullable() -> None:
    admitted = structural.admit({"port": {"number": 1, "protocol": None, "host": None, "since": None}}, SCHEMA)
    assert admitted == {"port": {"number": 1, "protocol": "TCP", "since": None}}
    assert port_faults(number=1, protocol=None, host=None, since=None) == []
    assert port_faults(number=None) == ["$.port: 'number' is a required property"]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"target": "http"}, {"target": 1.5}),
        ({"target": 80}, {"target": {}}),
        ({"extra": {"anything": [1]}}, {"other": {}}),
        ({"labels": {"a": "b"}}, {"labels": {"a": 1}}),
        ({"object": {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}}}, {"object": {"spec": {}}}),
        ({"items": ["a"]}, {"items": [None]}),
        ({"number": 2**31 - 1}, {"number": 2**31}),
    ],
)
def test_extensions_of_structural_schemas(good: Resource, bad: Resource) -> None:
    assert port_faults(**{"number": 1, **good}) == []
    assert len(port_faults(**{"number": 1, **bad})) >= 1


def test_a_patch_without_a_target_and_a_field_that_is_not_implemented_are_refused(tmp_path: Path) -> None:
    kustomization = tmp_path / "kustomization.yaml"
    kustomization.write_text("namePrefix: x-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        kustomize.build(tmp_path)
    kustomization.write_text("patches:\n- target: {kind: Pod}\n  patch: '[]'\n")
    with pytest.raises(ValueError, match="no resource matches"):
        kustomize.build(tmp_path)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl isn't installed")
@pytest.mark.parametrize("folder", OVERLAYS)
def test_our_kustomize_agrees_with_the_real_one(folder: str) -> None:
    command = ["kubectl", "kustomize", str(ROOT / "k8s" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    def key(item: Resource) -> tuple[str, str]:
        return item["kind"], item["metadata"]["name"]

    assert sorted(yaml.safe_load_all(done.stdout), key=key) == sorted(built(folder), key=key)


# --- what we promise beyond validity


def test_serve_config_equals_serving_rag_yaml() -> None:
    serving = ROOT / "serving" / "rag.yaml"
    service = resource("RayService", "tandem-rag")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load(serving.read_text()), (
        "serveConfigV2 in k8s/base/rayservice.yaml and serving/rag.yaml differ: copy the latter into the former"
    )


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_endpoints_pods_are_ready_when_the_application_is_and_live_whatever_it_does(folder: str) -> None:
    templates = pod_templates(folder)
    (replica,) = templates["RayService/tandem-rag/replicas"]["spec"]["containers"]
    probe = replica["readinessProbe"]
    assert probe["httpGet"] == {"path": "/readyz", "port": "serve"}
    assert probe["httpGet"]["path"] in document()["paths"]
    assert {"name": "serve", "containerPort": 8000} in replica["ports"]
    assert probe["timeoutSeconds"] > readiness.TIMEOUT_S
    # A model that is away for a while must not have its pod killed; and the head must be ready before there is one.
    assert "livenessProbe" not in replica
    (head_,) = templates["RayService/tandem-rag/head"]["spec"]["containers"]
    assert not {"readinessProbe", "livenessProbe"} & head_.keys()


def test_ray_and_qdrant_are_the_versions_that_we_install() -> None:
    ray = importlib.metadata.version("ray")
    assert resource("RayCluster", "tandem")["spec"]["rayVersion"] == ray
    assert resource("RayService", "tandem-rag")["spec"]["rayClusterConfig"]["rayVersion"] == ray
    image = resource("StatefulSet", "qdrant")["spec"]["template"]["spec"]["containers"][0]["image"]
    client = importlib.metadata.version("qdrant-client")
    assert image.partition(":v")[2].split(".")[:2] == client.split(".")[:2]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_pod_fits_the_restricted_pod_security_standard_and_is_bounded(folder: str) -> None:
    templates = pod_templates(folder)
    assert len(templates) == 6
    for name, template in templates.items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert {mount["name"] for mount in container["volumeMounts"]} <= {
                *(volume["name"] for volume in spec.get("volumes", [])),
                "data",  # Qdrant's own claim
            }, name


def test_secrets_are_named_and_never_written_down() -> None:
    assert [r["kind"] for r in built("base") if r["kind"] == "Secret"] == []
    guide = (ROOT / "docs" / "kubernetes.md").read_text()
    wanted: set[str] = set()
    for template in pod_templates("base").values():
        wanted |= {v["secret"]["secretName"] for v in template["spec"].get("volumes", []) if "secret" in v}
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    wanted.add(variable["valueFrom"]["secretKeyRef"]["name"])
    wanted.add(resource("RayCluster", "tandem")["spec"]["authOptions"]["secretName"])
    assert wanted == {"tandem-ray", "tandem-qdrant", "tandem-api-keys"}
    assert all(f"`{name}`" in guide for name in wanted)


def test_ray_authenticates_by_token_everywhere() -> None:
    token = {"mode": "token", "secretName": "tandem-ray"}
    assert resource("RayCluster", "tandem")["spec"]["authOptions"] == token
    assert resource("RayService", "tandem-rag")["spec"]["rayClusterConfig"]["authOptions"] == token


def test_the_gpu_overlay_gives_a_gpu_to_each_worker_and_each_replica_but_to_no_head() -> None:
    gpus = {
        name: template["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for name, template in pod_templates("overlays/gpu").items()
        if name.startswith("Ray")
    }
    assert gpus == {
        "RayCluster/tandem/head": None,
        "RayCluster/tandem/workers": "1",
        "RayService/tandem-rag/head": None,
        "RayService/tandem-rag/replicas": "1",
    }


def cluster_files(folder: Path) -> tuple[Cluster, ServerSettings]:
    for name, text in resource("ConfigMap", "tandem-cluster")["data"].items():
        (folder / name).write_text(text)
    return Cluster.load(folder), ServerSettings.load(folder / "server.json")


def test_jobs_and_server_are_told_of_the_same_cluster(tmp_path: Path) -> None:
    cluster, settings = cluster_files(tmp_path)
    assert not cluster.local
    assert replace(settings.cluster, server_url=cluster.server_url) == cluster
    assert settings.cluster.server_url == "http://0.0.0.0:8400"


def test_the_server_has_the_rules_that_a_cluster_file_has_by_default(tmp_path: Path) -> None:
    _, settings = cluster_files(tmp_path)
    assert settings == ServerSettings.of(ClusterSpec(), settings.cluster)


def test_every_host_in_the_cluster_file_is_a_service_and_every_path_is_mounted(tmp_path: Path) -> None:
    cluster, _ = cluster_files(tmp_path)
    urls = [cluster.dashboard_url, cluster.server_url, cluster.endpoint_url, str(cluster.qdrant_url)]
    hosts = {url.split("//")[1].split(".")[0] for url in urls}
    made_by_kuberay = {"tandem-head-svc", "tandem-rag-serve-svc"}
    assert hosts - made_by_kuberay <= {r["metadata"]["name"] for r in built("base") if r["kind"] == "Service"}
    server = pod_templates("base")["Deployment/tandem-server"]["spec"]["containers"][0]
    mounts = [mount["mountPath"] for mount in server["volumeMounts"]]
    database = cluster.database_url.removeprefix("sqlite:///")
    for path in [str(cluster.storage), str(cluster.ray_token_file), str(cluster.api_key_file), database]:
        assert any(path.startswith(mount) for mount in mounts), path
    for container in (head(resource("RayCluster", "tandem")), server):
        assert str(cluster.qdrant_api_key_env) in {v["name"] for v in container["env"]}


@pytest.mark.parametrize(
    ("caller", "callee", "port", "reaches"),
    [
        ({"ray.io/is-ray-node": "yes"}, "qdrant", 6333, True),
        ({"app.kubernetes.io/name": "tandem-server"}, "qdrant", 6333, True),
        ({"app.kubernetes.io/name": "other"}, "qdrant", 6333, False),
        ({"app.kubernetes.io/name": "prometheus"}, "metrics", 8080, True),
        ({"app.kubernetes.io/name": "prometheus"}, "metrics", 8265, False),
        ({"app.kubernetes.io/name": "other"}, "metrics", 8080, False),
    ],
)
def test_who_reaches_what(caller: dict[str, str], callee: str, port: int, reaches: bool) -> None:
    (rule,) = resource("NetworkPolicy", callee)["spec"]["ingress"]
    chosen = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    assert (caller in chosen and {"port": port} in rule["ports"]) == reaches


# --- what the Prometheus Operator is told


def test_monitors_find_every_ray_pod_and_the_server() -> None:
    monitors = {item["kind"]: item for item in built("monitoring")}
    assert {item["metadata"]["namespace"] for item in monitors.values()} == {"tandem"}
    (pods,) = monitors["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert monitors["PodMonitor"]["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    for name, template in pod_templates("base").items():
        if name.startswith("Ray"):
            (container,) = template["spec"]["containers"]
            assert {"name": pods["port"], "containerPort": 8080} in container["ports"], name
    (server,) = monitors["ServiceMonitor"]["spec"]["endpoints"]
    service = resource("Service", "tandem-server")
    assert monitors["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert server["port"] in {port["name"] for port in service["spec"]["ports"]}
    names = {(rule["targetLabel"], rule["replacement"]) for each in (pods, server) for rule in each["relabelings"]}
    assert names == {("job", "ray"), ("job", "tandem")}
    secret = server["authorization"]["credentials"]
    command = f"kubectl -n tandem create secret generic {secret['name']} --from-literal={secret['key']}="
    assert command in (ROOT / "docs" / "kubernetes.md").read_text()


def test_its_rules_are_those_of_the_alerts() -> None:
    (rules,) = (item for item in built("monitoring") if item["kind"] == "PrometheusRule")
    alerts = yaml.safe_load((ROOT / "cluster" / "observability" / "alerts.yaml").read_text())
    assert rules["spec"] == alerts, (
        "k8s/monitoring/prometheusrule.yaml and cluster/observability/alerts.yaml differ: copy the latter's groups"
    )
