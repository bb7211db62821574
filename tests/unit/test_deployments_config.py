"""The application's configuration: what is refused, and that the refusal names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider.errors import ConfigurationError, ModelDirectoryError
from outrider_deployments import config as configuration
from outrider_deployments.config import AppConfig, model_directory, resolve_path

CONFIGS = Path(configuration.__file__).parent / "configs"


def _values(**changes: Any) -> dict[str, Any]:
    model = {"directory": "demo:flash", "drafter": "demo:flash-drafter"} | changes
    return {"policy": "policies/default.yaml", "models": {"flash": model}}


def _shipped(name: str) -> dict[str, Any]:
    document = yaml.safe_load((CONFIGS / name).read_text("utf-8"))
    values: dict[str, Any] = document["applications"][0]["args"]
    return values


@pytest.mark.parametrize("name", ["local.yaml", "two-gpu.yaml", "cluster.yaml"])
def test_shipped_configurations_validate(name: str) -> None:
    assert set(AppConfig.parse(_shipped(name), source=name).models) == {"flash", "pro"}


def test_local_fits_on_one_core() -> None:
    config = AppConfig.parse(_shipped("local.yaml"), source="local.yaml")
    roles = [role.num_cpus for model in config.models.values() for role in (model.target, model.draft)]
    assert sum(roles) + config.gateway.num_cpus <= 1.0 + 1e-9


def test_two_gpu_differs_only_in_resources_and_directories() -> None:
    def rest(values: dict[str, Any]) -> dict[str, Any]:
        resources = {"directory", "drafter", "target", "draft", "max_running_requests", "kv_blocks", "block_size"}
        resources |= {"link", "scheduler"}
        models = {
            name: {key: value for key, value in model.items() if key not in resources}
            for name, model in values["models"].items()
        }
        of_the_models = {"gateway", "quality"}  # what `auto` knows is fitted for the models that are served
        return {key: value for key, value in values.items() if key not in of_the_models} | {"models": models}

    assert rest(_shipped("two-gpu.yaml")) == rest(_shipped("local.yaml"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"drafterr": "x"}, "models.flash.drafterr"),
        ({"directory": ""}, "models.flash.directory"),
        ({"scheduler": "deepest"}, "models.flash.scheduler"),
        ({"tenant_draft_tokens": -1}, "models.flash.tenant_draft_tokens"),
        ({"target": {"threads": 0}}, "models.flash.target.threads"),
        ({"target": {"device": "cuda"}}, "models.flash.target"),
        ({"target": {"num_gpus": 1}}, "models.flash.target"),
        ({"draft": {"dtype": "float8"}}, "models.flash.draft.dtype"),
        ({"max_running_requests": 0}, "models.flash.max_running_requests"),
    ],
)
def test_a_refusal_names_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AppConfig.parse(_values(**changes), source="local.yaml")
    assert caught.value.param == field
    assert caught.value.message.startswith(f"local.yaml: {field}: ")


@pytest.mark.parametrize("name", ["auto", "Flash", "a/b", "", "x" * 40])
def test_model_names_that_cannot_be_routed_are_refused(name: str) -> None:
    values = _values()
    values["models"] = {name: values["models"]["flash"]}
    with pytest.raises(ConfigurationError, match="cannot name a model"):
        AppConfig.parse(values, source="local.yaml")


def test_no_drafter_has_to_be_written_down() -> None:
    assert AppConfig.parse(_values(drafter="none"), source="x").models["flash"].drafter is None
    values = _values()
    del values["models"]["flash"]["drafter"]
    with pytest.raises(ConfigurationError, match=r"models\.flash\.drafter"):
        AppConfig.parse(values, source="x")


def test_relative_paths_prefer_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path("deployments").name == "deployments"  # from the checkout
    (tmp_path / "deployments").mkdir()
    assert resolve_path("deployments") == tmp_path / "deployments"


def test_a_missing_model_directory_is_said_plainly() -> None:
    with pytest.raises(ModelDirectoryError, match="no such path: not/there"):
        model_directory("not/there")
