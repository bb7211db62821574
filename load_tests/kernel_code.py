"""What Triton makes of every kernel for Hopper, and what the kernels have to move and compute.

    python load_tests/kernel_code.py

No GPU is needed: Triton's compiler and ptxas run anywhere. Written to load_tests/results/kernels: code.json and its
tables in README.md. `--check` only says what is wrong (a spill, narrow loads, products off the tensor cores) and fails.
Floors are at the datasheet rates of an H200, which no kernel reaches: they order kernels by what bounds them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined

from outrider_kernels.benching import Case, Variant

__all__ = ["OPS", "Code", "compiled", "main", "problems"]

OPS = (
    "ragged_attention",
    "paged_append",
    "row_ops",
    "block_attention",
    "draft_sampling",
    "verification",
    "round_layout",
)
RESULTS = Path(__file__).parent / "results" / "kernels"
_BYTES_PER_S = 4.8e12
_RATES = {"bf16": 989e12, "fp32": 67e12, "int32": 132 * 64 * 1.98e9}
"""Operations per second: tensor cores and fp32 by the H200's datasheet, int32 from 132 multiprocessors of 64 lanes."""
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9.]*)(.*?);")
_INTEGER = [
    "IMAD",
    "LOP3",
    "SHF",
    "IADD3",
    "LEA",
    "ISETP",
    "VIADD",
    "IABS",
    "VIMNMX",
    "IMNMX",
    "PRMT",
    "VIADDMNMX",
    "SHL",
]
_FLOAT = [
    "FFMA",
    "FMUL",
    "FADD",
    "FMNMX",
    "FSETP",
    "FSEL",
    "I2F",
    "F2I",
    "F2F",
    "I2FP",
    "F2FP",
    "HADD2",
    "HMUL2",
    "HFMA2",
]


@dataclass(frozen=True, slots=True)
class Code:
    """One compiled form. registers, stack and shared bytes as ptxas gives them; loads by width in bytes; of the longest
    loop (of everything where there is none) instructions per thread, and per element where that says something.
    """

    op: str
    name: str
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    loads: dict[str, int]
    tensor_cores: str
    instructions: int
    loop: int
    integer: int
    floating: int
    special: int
    per_element: float | None


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def compiled(op: str, variant: Variant) -> Code:
    """The variant's code for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget

    names = list(variant.signature)
    aligned = {(names.index(each),): [["tt.divisibility", 16]] for each in variant.aligned}
    source = triton.compiler.ASTSource(
        fn=variant.kernel, signature=dict(variant.signature), constexprs=dict(variant.constants), attrs=aligned
    )
    made: Any = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(variant.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        used, sass = (
            subprocess.run([_tool("cuobjdump"), flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.search(rf"{what}:(\d+)", used)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    found = [(int(m[1], 16), m[2], m[3]) for line in sass.splitlines() if (m := _INSTRUCTION.match(line))]
    loop = _longest_loop(found)
    kinds = Counter(_kind(name) for _, name, _ in loop)
    warps = int(variant.options.get("num_warps", 4))  # type: ignore[call-overload]
    per_element = len(loop) * 32 * warps / variant.elements if variant.elements else None
    return Code(
        op, variant.name, warps, registers, stack, int(made.metadata.shared), dict(sorted(_loads(found).items())),
        "+".join(sorted({name.split(".")[0] for _, name, _ in found} & {"HMMA", "HGMMA"})), len(found), len(loop),
        kinds["integer"], kinds["floating"], kinds["special"],
        None if per_element is None else round(per_element, 2),
    )  # fmt: skip


def _longest_loop(found: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """The instructions of the longest loop that holds no other, all of them where there is none."""
    ends = []
    for at, name, rest in found:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name.startswith("BRA") and target and int(target[1], 16) < at:
            ends.append((int(target[1], 16), at))
    inner = [(a, b) for a, b in ends if not any((c, d) != (a, b) and a <= c and d <= b for c, d in ends)]
    if not inner:
        return found
    first, last = max(inner, key=lambda each: each[1] - each[0])
    return [each for each in found if first <= each[0] <= last]


def _kind(name: str) -> str:
    base = name.split(".")[0]
    if base in _INTEGER:
        return "integer"
    return "floating" if base in _FLOAT else "special" if base == "MUFU" else "other"


def _loads(found: list[tuple[int, str, str]]) -> Counter[str]:
    """Loads from device memory by width in bytes."""
    widths: Counter[str] = Counter()
    for _, name, _ in found:
        parts = name.split(".")
        if parts[0] in ("LDG", "LDGSTS"):
            bits = next((part for part in parts if part in ("128", "64", "U8", "S8", "U16", "S16")), "32")
            widths[str(int(bits.strip("US")) // 8)] += 1
    return widths


def problems(code: Code, variant: Variant) -> Iterator[str]:
    """What serving should not be given."""
    if code.stack_bytes:
        yield f"{code.op}, {code.name}: {code.stack_bytes} bytes of stack"
    if variant.tensor_cores and not code.tensor_cores:
        yield f"{code.op}, {code.name}: its products do not run on the tensor cores"
    if variant.wide_loads and not code.loads.get("16"):
        yield f"{code.op}, {code.name}: no load of 16 bytes"


def _benches() -> Iterator[tuple[str, Any]]:
    for op in OPS:
        try:
            yield op, importlib.import_module(f"outrider_kernels.{op}.bench")
        except ModuleNotFoundError:
            continue


def _floor(case: Case) -> tuple[float, float]:
    return case.bytes / _BYTES_PER_S * 1e6, case.operations / _RATES[case.unit] * 1e6


def _page(codes: list[Code], cases: list[tuple[str, Case]], versions: str) -> str:
    lines = [
        "# The kernels, without a GPU",
        "",
        "No GPU has timed these kernels yet (`make gpu-check` does). Here is what can be known without one, made by",
        f"`python load_tests/kernel_code.py` ({versions}).",
        "",
        "## What the compiler makes of them for Hopper (sm_90)",
        "",
        "Stack is what spills; loads are from device memory, by width in bytes, as they stand in the code. The loop is",
        "the longest one that holds no other: its instructions per thread, the integer, fp32 and special-function ones",
        "among them, and all of them per element (of the vocabulary, a row, or positions × heads). A race's loop in",
        "block drawing holds its rough run and the exact repeat of tiles in doubt, one in a hundred or so:",
        "54 instructions an element of 64 rows usually run, 27 of them on the integer pipe.",
        "",
        "| op | form | warps | registers | stack | shared | loads | tensor cores | loop: all, int, fp, MUFU | each |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in codes:
        loads = ", ".join(f"{count} × {width}" for width, count in c.loads.items()) or "none"
        loop = f"{c.loop}, {c.integer}, {c.floating}, {c.special}"
        each = "" if c.per_element is None else f"{c.per_element:.3g}"
        lines.append(
            f"| {c.op} | {c.name} | {c.warps} | {c.registers} | {c.stack_bytes} | {c.shared_bytes} | {loads} | "
            f"{c.tensor_cores or '–'} | {loop} | {each} |"
        )
    lines += [
        "",
        "## What they have to move and compute",
        "",
        "Every input read once, every output written once; operations counted by hand, a multiply-add as two.",
        "Floors in µs at an H200's datasheet rates: 4.8 TB/s, 989 TFLOP/s bf16, 67 TFLOP/s fp32, 16.7 T/s of int32",
        "(132 multiprocessors × 64 lanes × 1.98 GHz).",
        "",
        "| op | case | MB | G operations | unit | µs to move | µs to compute | bound by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for op, case in cases:
        move, compute = _floor(case)
        bound = "memory" if move >= compute else case.unit
        lines.append(
            f"| {op} | {case.name} | {case.bytes / 1e6:.2f} | {case.operations / 1e9:.3g} | {case.unit} | {move:.1f} | "
            f"{compute:.1f} | {bound} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say what is wrong, write nothing")
    parser.add_argument("--op", action="append", help="only this op; may be repeated")
    asked = parser.parse_args()
    wrong: list[str] = []
    codes: list[Code] = []
    cases: list[tuple[str, Case]] = []
    for op, bench in _benches():
        if asked.op and op not in asked.op:
            continue
        for variant in bench.code_variants():
            codes.append(compiled(op, variant))
            wrong += problems(codes[-1], variant)
        cases += [(op, case) for case in bench.cases()]
    for each in wrong:
        print(each, file=sys.stderr)
    print(f"{len(codes)} kernels compiled for sm_90, {len(wrong)} of them not as they should be")
    if not asked.check:
        RESULTS.mkdir(parents=True, exist_ok=True)
        versions = "triton " + importlib.metadata.version("triton")
        document = {"versions": versions, "target": "sm_90", "code": [asdict(code) for code in codes]}
        document["cases"] = [
            {"op": op, "case": c.name, "bytes": c.bytes, "operations": c.operations, "unit": c.unit} for op, c in cases
        ]
        (RESULTS / "code.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (RESULTS / "README.md").write_text(_page(codes, cases, versions), "utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
