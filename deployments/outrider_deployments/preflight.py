"""What can be checked before Ray starts anything: files are there, drafters fit their targets, the policy loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outrider.errors import ConfigurationError, ModelDirectoryError, PolicyError
from outrider.scheduling import read_costs
from outrider_deployments.config import AppConfig, ModelConfig, database_url, model_directory, resolve_path

if TYPE_CHECKING:
    from outrider.policy import Policy
    from outrider.policy.sources import Source

__all__ = ["ModelPaths", "Preflight", "check", "documents_of"]


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """Where a target, its drafter and its cost profile lie, absolute; the last two are optional."""

    target: Path
    drafter: Path | None
    costs: Path | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the configuration's locations resolved to. documents: the policy as typed; database: a URL, absolute."""

    documents: tuple[Source, ...]
    database: str
    models: dict[str, ModelPaths]
    quality: Path | None = None


def check(config: AppConfig) -> Preflight:
    """Resolve every location and check what can be checked without loading weights.

    Raises PolicyError, ModelDirectoryError, DrafterMismatch, CurveError, QualityFileError or ConfigurationError.
    """
    from outrider.policy import parse_policies

    documents = documents_of(config.policy, config.teams)
    policy = parse_policies(documents[0], documents[1:]).accepted()
    models = {name: _check_model(name, model) for name, model in config.models.items()}
    if unpriced := sorted(set(models) - set(policy.models)):
        raise PolicyError(
            f"{config.policy}: no entry under `models` for '{unpriced[0]}', which this configuration serves"
        )
    _check_operators(config, policy)
    return Preflight(documents, database_url(config.database), models, _check_quality(config.quality))


def _check_operators(config: AppConfig, policy: Policy) -> None:
    """Whoever has read the documentation may not change the policy from another machine."""
    if not policy.accepts_demo_operator_key:
        return
    listen = config.gateway.listen
    if listen is not None and listen.host not in LOOPBACK:
        where, otherwise = listen.host, "listen on 127.0.0.1"
    elif listen is None and config.sockets == "cluster":
        where, otherwise = "every host of the cluster", "serve one host alone"
    else:
        return
    raise ConfigurationError(
        f"{config.policy}: the documented operator key would be taken on {where}: replace it with what "
        f"`outrider keys new --operator` prints, or {otherwise}",
        param="operators",
    )


def documents_of(policy: str, teams: Sequence[str] = ()) -> tuple[Source, ...]:
    """The platform's document and its teams', named as the configuration names them.

    Raises PolicyError or ConfigurationError where a file is missing.
    """
    from outrider.policy.sources import Source, read_sources

    places = {str(resolve_path(each)): each for each in (policy, *teams)}
    found, problems = read_sources(resolve_path(policy), [resolve_path(each) for each in teams])
    if problems:
        raise PolicyError("\n".join(map(str, problems)))
    return tuple(Source(_as_configured(each.file, places), each.text) for each in found)


def _check_quality(location: str | None) -> Path | None:
    from outrider.quality import SHIPPED, load_assessor

    if location is None:
        return None
    path = SHIPPED if location == "demo" else resolve_path(location)
    load_assessor(path)
    return path


def _as_configured(file: str, places: Mapping[str, str]) -> str:
    """The file's name with the configuration's own words for its place: no path of this machine is kept."""
    for place, words in places.items():
        if file == place or file.startswith(f"{place}/"):
            return words + file.removeprefix(place)
    return file


def _check_model(name: str, model: ModelConfig) -> ModelPaths:
    target = model_directory(model.directory)
    vocab_size, hidden_size, num_layers, context_tokens = _target_shape(name, target)
    costs = None if model.cost_profile is None else resolve_path(model.cost_profile)
    if costs is not None:
        read_costs(costs)
    if model.drafter is None:
        return ModelPaths(target, None, costs)
    from outrider.drafter.projection import FeatureProjection

    drafter = model_directory(model.drafter)
    FeatureProjection.load(
        drafter,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        context_tokens=context_tokens,
    )
    return ModelPaths(target, drafter, costs)


def _target_shape(name: str, directory: Path) -> tuple[int, ...]:
    """What a drafter must agree with, from config.json: vocabulary, hidden size, number of layers, context."""
    path = directory / "config.json"
    fields = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
    try:
        config = json.loads(path.read_text("utf-8"))
        return tuple(int(config[field]) for field in fields)
    except OSError as error:
        raise ModelDirectoryError(f"model {name}: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelDirectoryError(f"model {name}: {path} is not a model's config.json: {error!r}") from error
