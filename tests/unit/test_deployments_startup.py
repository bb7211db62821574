"""What keeps `make serve` from starting ends as one typed line and status 1, before anything was started."""

from __future__ import annotations

import inspect
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider.errors import ConfigurationError, CurveError, DrafterMismatch, ModelDirectoryError, QualityFileError
from outrider.quality import load_assessor
from outrider.scheduling import CostModel, CostSubject, StepCostCurve, write_costs
from outrider_deployments import local_ray, serve_local
from outrider_deployments.config import AppConfig, ModelConfig
from outrider_deployments.cost_profile import fresh_costs
from outrider_deployments.preflight import check
from outrider_deployments.readiness import startup_failure


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Starting Ray fails the test; the signal handlers of the test runner come back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(local_ray, "start", lambda: pytest.fail("Ray was started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _config(folder: Path, **models: Any) -> str:
    document = {"applications": [{"args": {"policy": "policies/default.yaml", "models": models}}]}
    path = folder / "app.yaml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    return str(path)


def _model(folder: Path, **changes: Any) -> str:
    folder.mkdir()
    shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "max_position_embeddings": 128}
    config = shape | changes
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


def _drafter(folder: Path, **changes: Any) -> str:
    """A directory whose config.json is a drafter's for `_model`, and nothing else."""
    folder.mkdir()
    config = {
        "architectures": ["Qwen3DSparkModel"], "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "num_target_layers": 4, "block_size": 7, "mask_token_id": 0,
        "target_layer_ids": [1], "markov_rank": 8,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")
    return str(folder)


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a start that must fail printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert serve_local.main([*arguments, *([] if "--port" in arguments else ["--port", str(port)])]) == 1
    output = capsys.readouterr().out
    assert "Traceback" not in output
    return output.strip()


def test_a_missing_model_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, flash={"directory": "no/such", "drafter": "none"})
    assert _run(capsys, "--config", config).startswith("model_directory_error: no such path: no/such")


def test_a_drafter_of_another_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = _model(tmp_path / "target")
    drafter = _drafter(tmp_path / "drafter", hidden_size=48)
    config = _config(tmp_path, flash={"directory": target, "drafter": drafter})
    assert "hidden_size is 48" in _run(capsys, "--config", config)


@pytest.mark.parametrize("layer", [3, 9, -2])
def test_a_tapped_layer_that_is_final_or_out_of_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layer: int
) -> None:
    target = _model(tmp_path / "target")
    drafter = _drafter(tmp_path / "drafter", target_layer_ids=[layer])
    config = _config(tmp_path, flash={"directory": target, "drafter": drafter})
    assert f"names layer {layer}" in _run(capsys, "--config", config)


def test_a_drafter_with_a_shorter_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = _model(tmp_path / "target")
    drafter = _drafter(tmp_path / "drafter", max_position_embeddings=64)
    config = _config(tmp_path, flash={"directory": target, "drafter": drafter})
    assert "max_position_embeddings is 64" in _run(capsys, "--config", config)


@pytest.mark.parametrize(("content", "says"), [(None, "no such path"), ("{}", "curve_error: costs.json: format")])
def test_a_cost_profile_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    profile = tmp_path / "costs.json"
    if content is not None:
        profile.write_text(content, "utf-8")
    target = _model(tmp_path / "target")
    config = _config(tmp_path, flash={"directory": target, "drafter": "none", "cost_profile": str(profile)})
    assert says in _run(capsys, "--config", config)


def test_a_cost_profile_of_another_machine_names_what_differs_and_the_command(tmp_path: Path) -> None:
    subject = CostSubject("t", "cpu/float32/1", "compiled", "A x2", "d", "cpu/float32/1", "process")
    costs = CostModel(((64, StepCostCurve.measured([(1, 0.1), (8, 0.2)])),), subject=subject)
    path = tmp_path / "costs.json"
    write_costs(path, costs, {})
    model = ModelConfig(directory="demo:pro", drafter="demo:pro-drafter", max_running_requests=8)
    assert fresh_costs(path, model, subject) == costs
    with pytest.raises(CurveError) as caught:
        fresh_costs(path, model, replace(subject, cpu="B x4", target_role="cpu/float32/2"))
    assert caught.value.message == (
        "costs.json: stale: target_role is cpu/float32/1, not cpu/float32/2; cpu is A x2, not B x4; renew it: outrider "
        "profile demo:pro --drafter demo:pro-drafter --link process --requests 8 --threads 1 --dtype float32 "
        f"--device cpu --out {path}"
    )


def test_a_bad_policy_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nmodells: {}\n", "utf-8")
    config = _config(tmp_path, flash={"directory": _model(tmp_path / "target"), "drafter": "none"})
    assert "policy.yaml:2:1: modells" in _run(capsys, "--config", config, "--policy", str(policy))


def test_a_quality_file_is_loaded_before_anything_starts(tmp_path: Path) -> None:
    model = {"directory": _model(tmp_path / "target"), "drafter": None}
    values = {"policy": "policies/default.yaml", "models": {"flash": model}}
    found = check(AppConfig.parse(values | {"quality": "demo"}, source="test"))
    assert found.quality is not None
    assert load_assessor(found.quality).assess("What is 12 + 30?").success.keys() <= {"flash", "pro"}
    broken = tmp_path / "broken.quality"
    broken.write_bytes(b"nothing")
    with pytest.raises(QualityFileError, match="broken"):
        check(AppConfig.parse(values | {"quality": str(broken)}, source="test"))


def test_the_documented_operator_key_is_refused_beyond_this_machine() -> None:
    values = _arguments(Path("deployments/outrider_deployments/configs/local.yaml"))
    gateway = values["gateway"]
    for host in ("127.0.0.1", "::1"):
        check(AppConfig.parse(values | {"gateway": gateway | {"listen": {"host": host}}}, source="test"))
    with pytest.raises(ConfigurationError, match=r"documented operator key would be taken on 0\.0\.0\.0"):
        check(AppConfig.parse(values | {"gateway": gateway | {"listen": {"host": "0.0.0.0"}}}, source="test"))
    cluster = {"sockets": "cluster", "database": "postgresql+psycopg://"}
    with pytest.raises(ConfigurationError, match="documented operator key would be taken on every host"):
        check(AppConfig.parse(values | cluster | {"gateway": {}}, source="test"))
    with pytest.raises(ConfigurationError, match="SQLite"):
        AppConfig.parse(values | {"sockets": "cluster"}, source="test")


def _arguments(config: Path) -> dict[str, Any]:
    arguments: dict[str, Any] = yaml.safe_load(config.read_text("utf-8"))["applications"][0]["args"]
    return arguments


def test_a_served_model_the_policy_does_not_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, other={"directory": _model(tmp_path / "target"), "drafter": "none"})
    assert "'other'" in _run(capsys, "--config", config)


def test_an_unknown_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, flash={"directory": "x", "drafter": "none", "speed": 3})
    assert _run(capsys, "--config", config).startswith("configuration_error: app.yaml: models.flash.speed: ")


@pytest.mark.parametrize("text", ["", "applications: []", "{", "applications: [{name: x}]"])
def test_a_file_that_is_no_serve_config(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(text, "utf-8")
    assert "configuration_error: " in _run(capsys, "--config", str(path))


def test_a_busy_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, flash={"directory": "x", "drafter": "none"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert _run(capsys, "--config", config, "--port", port).startswith(f"port_in_use: port {port} on 127.0.0.1")


def test_a_cluster_in_the_environment_is_not_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    config = _config(tmp_path, flash={"directory": "x", "drafter": "none"})
    assert "RAY_ADDRESS is set to 10.1.2.3:6379" in _run(capsys, "--config", config)


def test_a_cluster_of_this_machine_is_seen_only_while_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(local_ray, "CURRENT_CLUSTER", noted)
    assert local_ray.other_cluster() is None
    with socket.socket() as cluster:
        cluster.bind(("127.0.0.1", 0))
        cluster.listen()
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        noted.write_text(address, "utf-8")
        assert local_ray.other_cluster() == address
    assert local_ray.other_cluster() is None


def test_host_and_port_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "8123")
    options = serve_local._options([])
    assert (options.host, options.port, options.url) == ("0.0.0.0", 8123, "http://127.0.0.1:8123")


def test_a_constructor_that_fails_is_reported_as_its_typed_error() -> None:
    message = (
        "The deployment failed to start 1 times in a row.\nTraceback (most recent call last):\n  File x\n"
        "outrider.errors.ModelDirectoryError: model flash: weights do not load: truncated"
    )
    error = startup_failure(message)
    assert isinstance(error, ModelDirectoryError)
    assert error.message == "model flash: weights do not load: truncated"
    assert isinstance(startup_failure("x\noutrider.errors.DrafterMismatch: no"), DrafterMismatch)
    assert startup_failure("Deployment is updating.") is None
    assert startup_failure("ValueError: something else") is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
def test_serve_can_read_the_annotation_of_the_builder() -> None:
    from outrider_deployments.app import build

    (parameter,) = inspect.signature(build).parameters.values()
    assert parameter.annotation is AppConfig
