"""Who may import whom: the table of ARCHITECTURE.md, enforced on every import statement, lazy ones included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAVES = {"types", "errors"}
LOCAL = {
    "documents", "drafter", "engine", "gateway", "link", "policy", "routing", "scheduling", "speculation", "telemetry",
    "text", "accounting", "database", "kernels", "demo_models", "quality",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "documents": LEAVES,
    "database": LEAVES,
    "policy": LEAVES | {"documents", "database"},
    "scheduling": LEAVES,
    "routing": LEAVES | {"policy", "scheduling"},
    "telemetry": LEAVES,
    "accounting": LEAVES | {"policy", "database"},
    "quality": LEAVES | {"documents"},
    "text": LEAVES,
    "link": LEAVES,
    "speculation": LEAVES | {"scheduling", "kernels"},
    "drafter": LEAVES | {"speculation", "link", "kernels"},
    "engine": LEAVES | {"scheduling", "speculation", "drafter", "link", "telemetry", "text", "kernels"},
    "gateway": LEAVES | {"text", "policy", "routing", "accounting", "telemetry", "quality"},
    "demo_models": LEAVES,
    "profiles": LEAVES | {"scheduling"},
    "training": LEAVES
    | {"documents", "text", "drafter", "engine", "speculation", "scheduling", "telemetry", "local", "demo_models"},
    "evals": LEAVES | {"documents", "telemetry", "quality"},
    "replay": LEAVES | {"policy", "routing", "scheduling", "telemetry", "profiles"},
    "local": LEAVES | LOCAL,
    "bench": LEAVES | LOCAL | {"local", "profiles"},
    "cli": LEAVES | LOCAL | {"training", "evals", "replay", "local", "bench", "profiles"},
    "__main__": {"cli"},
    "kernels": set(),
}
RAY_ROOTS = {"deployments"}
LIGHT = ("documents", "policy", "quality", "scheduling", "routing", "replay", "profiles")
HEAVY = ("torch", "ray", "transformers")


def sources() -> list[Path]:
    return [file for root in ("platform", "kernels", "deployments") for file in (ROOT / root).rglob("*.py")]


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import; relative ones resolved against `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            bare = module in ("outrider", "outrider_kernels")
            yield from (
                [(node.lineno, f"{module}.{alias.name}") for alias in node.names] if bare else [(node.lineno, module)]
            )


def unit_of(module: str) -> str | None:
    """The row of the table that a dotted module belongs to; None for the outside world and the bare root."""
    parts = module.split(".")
    if parts[0] == "outrider_kernels":
        return "kernels"
    if parts[0] == "outrider_deployments":
        return "deployments"
    return parts[1] if parts[0] == "outrider" and len(parts) > 1 else None


def unit_of_file(file: Path) -> str | None:
    root, package, *rest = file.relative_to(ROOT).parts
    if root != "platform":
        return root
    assert package == "outrider"
    return rest[0].removesuffix(".py") if rest[0] != "__init__.py" else None


def violations(file: Path, source: str) -> list[str]:
    owner = unit_of_file(file)
    if owner is None or owner == "deployments":
        return []
    package = ".".join(file.relative_to(ROOT).with_suffix("").parts[1:-1])
    found = []
    for line, module in imported(ast.parse(source), package):
        unit = unit_of(module)
        if unit is not None and unit != owner and not module.endswith("__version__"):
            if owner not in ALLOWED:
                found.append(f"{file}:{line}: {owner} has no row in the table")
            elif unit not in ALLOWED[owner]:
                found.append(f"{file}:{line}: {owner} may not import {module}")
    return found


def test_inside_edges() -> None:
    found = [each for file in sources() for each in violations(file, file.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from outrider.gateway import create_app",
        "import outrider.engine.loop",
        "from outrider import routing",
        "def f():\n    from outrider.link import DraftLink",
        "from ..engine import EngineLoop",
        "from outrider_deployments import app",
    ],
)
def test_a_forbidden_edge_is_found(source: str) -> None:
    assert violations(ROOT / "platform/outrider/policy/x.py", source)


def test_allowed_edges_pass() -> None:
    lines = ("from outrider.types import Budgets", "from outrider.policy.keys import new_key", "from . import keys")
    assert not violations(ROOT / "platform/outrider/policy/x.py", "\n".join((*lines, "import numpy")))


def test_only_deployments_import_ray() -> None:
    found = [
        f"{file}:{line}"
        for file in sources()
        if file.relative_to(ROOT).parts[0] not in RAY_ROOTS
        for line, module in imported(ast.parse(file.read_text()), "outrider")
        if module.split(".")[0] == "ray"
    ]
    assert not found, "\n".join(found)


def test_the_table_has_no_cycle() -> None:
    done: set[str] = set()

    def visit(unit: str, trail: tuple[str, ...]) -> None:
        assert unit not in trail, " → ".join((*trail, unit))
        if unit not in done:
            for other in sorted(ALLOWED.get(unit, ())):
                visit(other, (*trail, unit))
            done.add(unit)

    for unit in ALLOWED:
        visit(unit, ())


def modules_after(statement: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    path = ":".join(str(ROOT / root) for root in ("platform", "kernels", "deployments"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    return set(done.stdout.split())


def test_light_packages_load_neither_torch_nor_ray() -> None:
    present = [unit for unit in LIGHT if (ROOT / "platform/outrider" / unit / "__init__.py").exists()]
    assert {"policy", "routing", "scheduling"} <= set(present)
    assert modules_after("\n".join(f"import outrider.{unit}" for unit in present)) == set()


def test_the_command_line_loads_neither_torch_nor_ray_for_policies() -> None:
    statement = (
        "import outrider.cli.main, outrider.cli.policy, outrider.cli.keys\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    outrider.cli.main.main(['--help'])"
    )
    assert modules_after(statement) == set()


BESIDE_TORCH = ("ray", "fastapi", "typer", "rich", "zmq", "sqlalchemy", "alembic", "uvicorn")
"""What a machine need not have for an engine or the check of a GPU: beside torch and transformers they load pydantic
and msgspec."""


@pytest.mark.parametrize("module", ["outrider.local", "outrider.bench.gpu.__main__"])
def test_engine_and_gpu_check_load_without_the_rest_of_the_platform(module: str) -> None:
    absent = (*BESIDE_TORCH, "llguidance", "jinja2", "prometheus_client", "starlette")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))"
    assert "torch" in modules_after(f"{blocked}\nimport {module}")


def test_a_heavy_import_would_be_seen() -> None:
    assert modules_after("import sys; sys.modules['torch'] = sys") == {"torch"}
