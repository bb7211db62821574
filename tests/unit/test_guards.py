"""Rules of the house that no type checker knows."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
from pathlib import Path

import pytest

import outrider.errors
from outrider.errors import OutriderError

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("platform", "kernels", "deployments")


def sources() -> list[Path]:
    return sorted(file for root in SOURCE_ROOTS for file in (ROOT / root).rglob("*.py"))


def packages() -> list[str]:
    found = []
    for file in sources():
        if file.name == "__init__.py":
            found.append(".".join(file.parent.relative_to(ROOT).parts[1:]))
    return found


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_source_roots_are_not_packages(root: str) -> None:
    """`platform/__init__.py` would shadow the standard library's `platform` and break Ray itself."""
    assert not (ROOT / root / "__init__.py").exists()


def export_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that ruff's RUF022 keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("package", packages())
def test_exports_are_sorted_and_importable(package: str) -> None:
    module = importlib.import_module(package)
    exported = list(getattr(module, "__all__", []))
    assert exported == sorted(set(exported), key=export_order)
    assert [name for name in exported if not hasattr(module, name)] == []


def hub_calls(source: str) -> list[int]:
    """Lines that may reach out to a model hub: `from_pretrained` without local_files_only=True, downloads by name."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        local = any(
            word.arg == "local_files_only" and isinstance(word.value, ast.Constant) and word.value.value is True
            for word in node.keywords
        )
        if (called == "from_pretrained" and not local) or called in ("hf_hub_download", "snapshot_download"):
            lines.append(node.lineno)
    return lines


def test_nothing_is_fetched_from_a_hub() -> None:
    found = [f"{file.relative_to(ROOT)}:{line}" for file in sources() for line in hub_calls(file.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("M.from_pretrained(path)", True),
        ("M.from_pretrained(path, local_files_only=False)", True),
        ("snapshot_download('a/b')", True),
        ("M.from_pretrained(path, local_files_only=True)", False),
        ("M.save_pretrained(path)", False),
    ],
)
def test_a_hub_call_would_be_seen(source: str, caught: bool) -> None:
    assert bool(hub_calls(source)) is caught


def leaves(kind: type[OutriderError]) -> list[type[OutriderError]]:
    children = kind.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [kind]


LEAVES = leaves(OutriderError)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_error_says_when_it_happens(leaf: type[OutriderError]) -> None:
    assert leaf.__doc__
    assert leaf.__doc__ != OutriderError.__doc__
    assert leaf.__name__ in outrider.errors.__all__
    assert leaf.__name__ in (outrider.errors.__doc__ or "")
    assert inspect.getmodule(leaf) is outrider.errors


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [leaf.code for leaf in LEAVES]
    assert sorted(codes) == sorted(set(codes))
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)
    assert all(400 <= leaf.status < 600 for leaf in LEAVES)


def test_errors_survive_process_borders() -> None:
    for leaf in LEAVES:
        copy = pickle.loads(pickle.dumps(leaf("text", param="p", retry_after_s=1.5)))
        assert type(copy) is leaf
        assert (copy.message, copy.param, copy.retry_after_s) == ("text", "p", 1.5)
