"""An assessor as one small file, refused where it is damaged or of another kind.

Eight bytes that name the kind, the SHA-256 of the rest, then NumPy's compressed arrays, one of which is a header in
JSON. Nothing is parsed before the sum is right, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.errors import OutputNotWritable, QualityFileError
from outrider.quality.assessment import Assessor
from outrider.quality.domains import DomainClassifier, Vocabulary
from outrider.quality.features import FEATURES, WEIGHTS
from outrider.quality.logistic import Linear
from outrider.quality.sufficiency import Sufficiency

__all__ = ["SHIPPED", "fingerprint", "load_assessor", "save_assessor", "sealed"]

SHIPPED = Path(__file__).resolve().parent / "demo.quality"
"""Fitted on the demo models that ship with Outrider."""

MAGIC, FORMAT = b"ORQUALTY", 1
_SUM_BYTES = 32
_AGAIN = "fit it again with `outrider eval sufficiency fit`"

Arrays = dict[str, NDArray[Any]]


def save_assessor(path: Path, assessor: Assessor) -> None:
    """Write the file whole or not at all; the same assessor gives the same bytes. Raises OutputNotWritable."""
    stored = io.BytesIO()
    header = np.frombuffer(json.dumps(_header(assessor), sort_keys=True).encode(), np.uint8)
    np.savez_compressed(stored, header=header, **_arrays(assessor))  # type: ignore[arg-type]
    content = sealed(stored.getvalue())
    name: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if name is not None and os.path.exists(name):
            os.unlink(name)
        raise OutputNotWritable(f"{path}: cannot be written: {error.strerror or error}") from error


def load_assessor(path: Path = SHIPPED) -> Assessor:
    """The assessor in a file. Raises QualityFileError naming file, field and fix."""
    header, arrays = _read(path)
    for field, version in (("format", FORMAT), ("features", FEATURES)):
        if header.get(field) != version:
            message = f"{path.name}: {field}: {header.get(field)!r} where this version reads {version}; {_AGAIN}"
            raise QualityFileError(message, param=field)
    try:
        return _assessor(header, arrays)
    except (KeyError, ValueError, TypeError) as error:
        message = f"{path.name}: unusable: {type(error).__name__}: {error}; {_AGAIN}"
        raise QualityFileError(message) from error


def sealed(content: bytes) -> bytes:
    """The bytes of a file with this content."""
    return MAGIC + hashlib.sha256(content).digest() + content


def fingerprint(assessor: Assessor) -> str:
    """16 hex digits over all that an assessment depends on and what it was fitted on."""
    digest = hashlib.sha256(json.dumps(_header(assessor), sort_keys=True).encode())
    for name, array in sorted(_arrays(assessor).items()):
        digest.update(f"{name}:{array.dtype}:".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _header(assessor: Assessor) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "features": FEATURES,
        "domains": list(assessor.domains.names),
        "models": list(assessor.sufficiency.models),
        "least_probability": assessor.domains.least_probability,
        "least_coverage": assessor.domains.least_coverage,
        "fitted_on": dict(assessor.fitted_on),
    }


def _arrays(assessor: Assessor) -> Arrays:
    """By name; weights in half precision, which is what `fit` rounds them to."""
    domains, sufficiency = assessor.domains, assessor.sufficiency
    return {
        "domain_weights": domains.linear.weights.astype(np.float16),
        "domain_side": domains.linear.by_side,
        "vocabulary": domains.vocabulary.bits,
        "usual_coverage": domains.usual_coverage,
        "model_weights": sufficiency.linear.weights.astype(np.float16),
        "model_side": sufficiency.linear.by_side,
        "slope": sufficiency.slope,
        "offset": sufficiency.offset,
    }


def _read(path: Path) -> tuple[Mapping[str, Any], Arrays]:
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise QualityFileError(f"cannot read the quality file {path}: {error.strerror or error}") from error
    if not whole.startswith(MAGIC):
        raise QualityFileError(f"{path.name}: not a quality file; {_AGAIN}")
    content = whole[len(MAGIC) + _SUM_BYTES :]
    if sealed(content) != whole:
        raise QualityFileError(f"{path.name}: damaged: its checksum is wrong; copy it anew, or {_AGAIN}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        header = json.loads(arrays.pop("header").tobytes())
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise QualityFileError(f"{path.name}: no header in it ({error}); {_AGAIN}", param="header") from error
    if not isinstance(header, dict):
        raise QualityFileError(f"{path.name}: header: not a mapping; {_AGAIN}", param="header")
    return header, arrays


def _assessor(header: Mapping[str, Any], arrays: Arrays) -> Assessor:
    """Raises KeyError, ValueError, TypeError for what is missing or of another shape."""
    domains, models = _names(header, "domains"), _names(header, "models")
    count, outputs = len(domains), len(models)
    linear = Linear(_array(arrays, "domain_weights", (WEIGHTS, count)), _array(arrays, "domain_side", (1, count)))
    bits = _array(arrays, "vocabulary", (Vocabulary.SLOTS // 8,), np.uint8)
    classifier = DomainClassifier(
        domains,
        linear,
        Vocabulary(bits),
        _array(arrays, "usual_coverage", (count,)),
        float(header["least_probability"]),
        float(header["least_coverage"]),
    )
    sufficiency = Sufficiency(
        models,
        Linear(_array(arrays, "model_weights", (WEIGHTS, outputs)), _array(arrays, "model_side", (1 + count, outputs))),
        _array(arrays, "slope", (outputs,)),
        _array(arrays, "offset", (outputs,)),
    )
    return Assessor(classifier, sufficiency, _fitted_on(header, domains, models))


def _fitted_on(header: Mapping[str, Any], domains: tuple[str, ...], models: tuple[str, ...]) -> dict[str, Any]:
    """What `fit_assessor` says of its items, complete."""
    about = dict(header["fitted_on"])
    numbers = [about["held_out_share"], *(about["items"][name] for name in domains)]
    numbers += [about["right"][model][name] for model in models for name in domains]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("fitted_on holds no numbers of items")
    return about


def _names(header: Mapping[str, Any], field: str) -> tuple[str, ...]:
    names = header[field]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{field} is not a list of names")
    return tuple(names)


def _array(arrays: Arrays, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    array = arrays[name].astype(dtype)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is {array.shape} where {shape} finite numbers belong")
    return array
