"""What the CUDA kernels of the ranking loss become, without a GPU: compiled for one, and their instructions counted.

    python benchmarks/triton_code.py                   for compute capability 9.0 (H100, H200)
    python benchmarks/triton_code.py --capability 80   for an A100

Issue slots: instructions that a warp of four issues for 64 x 64 similarities (V = 8, D = 128), inner loops multiplied
out. Each of a multiprocessor's four schedulers issues one in a cycle, so that "floor" is the least time in which an
H100 could issue all of N = 65,536: no kernel is faster, and one that waits is slower. Special functions: reciprocals
and exponentials among them, at a fourth of the rate. Registers are those of a thread, 255 at most; what is spilled
(bytes) goes to memory.
"""

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from s2r2.losses.backends import triton_cuda, triton_split, triton_split_kernels

RESULTS = Path(__file__).parent / "results" / "triton_code.json"
POSITIVES, WIDTH, LARGEST = 7, 128, 65_536
PROCESSORS, CLOCK = 132, 1.755e9  # of an H100
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Case:
    """A kernel with the constants that V = 8 and D = 128 give it, and how often each of its inner loops turns."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    turns: tuple[int, ...] = ()
    options: tuple[tuple[str, Any], ...] = tuple(triton_cuda._LAUNCH.items())


@dataclass(frozen=True)
class Code:
    """What became of it."""

    name: str
    issue_slots: int
    special_functions: int
    floor_ms: float
    registers: int
    spilled: int
    shared: int


def cases(capability: int) -> list[Case]:
    """All kernels: those of ``triton``, and of ``triton-split`` in both variants."""
    rows = triton_cuda.rows_of_tile(capability)
    tile = {"BM": rows, "BN": 64, "BK": 32, "BD": WIDTH, "PB": 8, "PRECISION": triton_cuda.PRECISION, "SHARED": True}
    steps = WIDTH // 32
    found = [
        Case("triton: count", triton_cuda._count, tile, (steps,)),
        Case("triton: pull queries", triton_cuda._pull_queries, tile, (steps, POSITIVES)),
        Case("triton: pull candidates", triton_cuda._pull_candidates, tile, (steps, POSITIVES)),
    ]
    launch = tuple(triton_split.LAUNCH.items())
    for wide in (0, 1):
        kind = ", wide" if wide else ""
        tile = {"BM": triton_split._ROWS, "BN": triton_split._COLUMNS, "BD": WIDTH, "PB": POSITIVES, "WIDE": wide}
        tile |= {"ONE": True, "BLOCK": True}
        found.append(Case(f"triton-split: count{kind}", triton_split_kernels.count, tile, options=launch))
        for side, rows, columns in (("both", True, True), ("queries", True, False), ("candidates", False, True)):
            constants = tile | {"ROWS": rows, "COLUMNS": columns}
            name = f"triton-split: pull {side}{kind}"
            found.append(Case(name, triton_split_kernels.pull, constants, options=launch))
    return found


def compiled(case: Case, capability: int) -> Any:
    """The kernel as machine code, with the alignments that a launch with such sizes has."""
    kinds, aligned = {}, {}
    for place, name in enumerate(case.kernel.arg_names):
        kinds[name] = _kind(name, case.constants)
        if kinds[name].startswith("*") or name in ("n_queries", "n_candidates", "n_rows", "n_cols", "depth"):
            aligned[(place,)] = [["tt.divisibility", 16]]
    constants = {name: case.constants[name] for name, kind in kinds.items() if kind == "constexpr"}
    source = ASTSource(case.kernel, kinds, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(case.options))


def _kind(name: str, constants: dict[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if name.endswith("_ids") or name == "wide":
        return "*i32"
    if name.endswith(("_hi", "_lo")):
        return "*fp16"
    if name == "scale":
        return "fp32"
    return "i32" if name.startswith("n_") or name == "depth" else "*fp32"


def measure(case: Case, capability: int) -> Code:
    """Compile a kernel and count."""
    built = compiled(case, capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        text = _tool("nvdisasm", "-c", file.name)
        usage = _tool("cuobjdump", "-res-usage", file.name)
    registers, stack = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
    slots, special = count_slots(text, case.turns)
    share = 64 * 64 / (case.constants["BM"] * case.constants["BN"]) * dict(case.options)["num_warps"] / 4
    floor = (LARGEST / 64) ** 2 / PROCESSORS * slots * share / CLOCK * 1000
    figures = (round(slots * share), round(special * share), floor, registers, stack, built.metadata.shared)
    return Code(case.name, *figures)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def count_slots(text: str, turns: tuple[int, ...]) -> tuple[int, int]:
    """Instructions of a disassembled kernel's longest loop, and special functions, with inner loops multiplied out.

    Args:
        text: What ``nvdisasm -c`` writes.
        turns: How often each inner loop turns, in the order of the code; a loop that the compiler has unrolled, and
            that therefore is not there, must be left out.
    """
    instructions, labels = _instructions(text)
    loops = []
    for end, line in enumerate(instructions):
        jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        if jump and labels.get(jump[1], end + 1) <= end:
            loops.append((labels[jump[1]], end))
    outer = max(loops, key=lambda loop: loop[1] - loop[0])
    inner = sorted(loop for loop in set(loops) if outer[0] < loop[0] and loop[1] < outer[1])
    if len(inner) != len(turns):
        raise SystemExit(
            f"triton_code: {len(inner)} inner loops found, {len(turns)} expected: count by hand and correct"
        )
    total = special = 0
    for (first, last), times in [(outer, 1), *((loop, n - 1) for loop, n in zip(inner, turns, strict=True))]:
        body = instructions[first : last + 1]
        total += times * len(body)
        special += times * sum("MUFU" in line for line in body)
    return total, special


def _instructions(text: str) -> tuple[list[str], dict[str, int]]:
    """The kernel's instructions, and which of them each label stands before."""
    instructions, labels = [], {}
    for line in text.splitlines():
        label = re.match(r"(\.L_x_\d+):", line)
        if label:
            labels[label[1]] = len(instructions)
        found = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if found:
            instructions.append(found[1])
    return instructions, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="10 * major + minor")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    arguments = parser.parse_args()
    print(f"triton {triton.__version__}, compute capability {arguments.capability / 10}")
    header = ("issue slots", "special", "floor ms", "registers", "spilled", "shared")
    print(f"{'kernel':38s}", *(f"{name:>11s}" for name in header))
    rows = []
    for case in cases(arguments.capability):
        if arguments.only not in case.name:
            continue
        code = measure(case, arguments.capability)
        rows.append(asdict(code))
        figures = (code.issue_slots, code.special_functions, round(code.floor_ms, 1), code.registers, code.spilled)
        print(f"{code.name:38s}", *(f"{value:11,}" for value in (*figures, code.shared)), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"triton": triton.__version__, "kernels": rows}, indent=1))


if __name__ == "__main__":
    main()
