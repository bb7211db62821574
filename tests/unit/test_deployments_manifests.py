"""What operators deploy validates by the schemas of the tools that read it, and says the same in every place."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from outrider_deployments.config import AppConfig, RoleConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "deployments/outrider_deployments/configs").glob("*.yaml"))
MANIFEST = ROOT / "deployments/kuberay/rayservice.yaml"
CRD = ROOT / "tests/data/kuberay/rayservice-v1.json.gz"


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return document


def strict(schema: Any) -> Any:
    """A Kubernetes schema as JSON Schema that refuses fields it does not know, as the API server does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def crd() -> Any:
    schema = strict(json.loads(gzip.decompress(CRD.read_bytes())))
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return jsonschema.Draft7Validator(schema)


def problems(crd: Any, manifest: dict[str, Any]) -> list[str]:
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in crd.iter_errors(manifest)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_serve_takes_every_configuration(path: Path) -> None:
    document = read(path)
    ServeDeploySchema.model_validate(document)
    (application,) = document["applications"]
    config = AppConfig.parse(application["args"], source=path.name)
    assert set(config.models) == {"flash", "pro"}


def test_serve_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="proxy_location"):
        ServeDeploySchema.model_validate({**read(CONFIGS[0]), "proxy_location": "Nowhere"})


def test_the_manifest_is_one_that_kuberay_takes(crd: Any) -> None:
    assert problems(crd, read(MANIFEST)) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("spec", "serveConfigV3"), "x", "serveConfigV3"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplica"), 1, "minReplica"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "replicas"), "seven", "seven"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "envFrm"), [], "envFrm"),
        (("spec", "upgradeStrategy", "typ"), "None", "typ"),
    ],
)
def test_a_mistake_in_the_manifest_is_found(crd: Any, path: tuple[str | int, ...], value: Any, told: str) -> None:
    manifest = copy.deepcopy(read(MANIFEST))
    place: Any = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert any(told in problem for problem in problems(crd, manifest))


def test_the_manifest_serves_the_cluster_s_configuration() -> None:
    inside = yaml.safe_load(read(MANIFEST)["spec"]["serveConfigV2"])
    assert inside == read(ROOT / "deployments/outrider_deployments/configs/cluster.yaml")


def test_the_manifest_has_as_many_gpus_and_enough_cores_for_what_the_application_asks_for() -> None:
    config = served()
    roles = asked(config)
    (group,) = read(MANIFEST)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert sum(role.num_gpus for role in roles) == group["replicas"] * int(limits["nvidia.com/gpu"])
    cores = sum(role.num_cpus for role in roles) + config.gateway.replicas * config.gateway.num_cpus
    assert cores + config.control.num_cpus <= group["replicas"] * int(limits["cpu"])
    assert all(role.num_cpus <= int(limits["cpu"]) for role in roles)


def test_a_cluster_s_actors_take_whole_gpus() -> None:
    """Serve spreads shares over nodes, each of which then lacks the whole GPU that another replica waits for."""
    assert [role.num_gpus % 1 for role in asked(served())] == [0] * len(asked(served()))


def test_two_clusters_never_run_at_once_on_one_ledger() -> None:
    assert read(MANIFEST)["spec"]["upgradeStrategy"] == {"type": "None"}


@pytest.mark.parametrize("group", ["headGroupSpec", "workerGroupSpecs"])
def test_every_pod_has_what_the_configuration_reads(group: str) -> None:
    groups = read(MANIFEST)["spec"]["rayClusterConfig"][group]
    for each in groups if isinstance(groups, list) else [groups]:
        pod = each["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() <= {volume["name"] for volume in pod["volumes"]}
        config = served()
        places = [
            config.policy,
            *(place for model in config.models.values() for place in (model.directory, model.drafter)),
        ]
        for place in places:
            assert any(f"/outrider/{place}".startswith(f"{mount}/") for mount in mounts.values()), place
        assert container["envFrom"] == [{"secretRef": {"name": "outrider"}}]


def served() -> AppConfig:
    inside = yaml.safe_load(read(MANIFEST)["spec"]["serveConfigV2"])
    return AppConfig.parse(inside["applications"][0]["args"], source="manifest")


def asked(config: AppConfig) -> list[RoleConfig]:
    """What Ray is asked for, an entry per actor of a model."""
    return [
        role
        for model in config.models.values()
        for role in (model.target, *([model.draft] if model.link == "process" else []))
        for _ in range(model.replicas)
    ]
