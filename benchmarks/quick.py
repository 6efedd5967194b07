"""Compare fastadam with torch's Adam, fused and default, with plain NumPy and with a copy-like loop.

All contenders of a case run in turns, in random order, in one process, so that whatever else the machine does hits
all of them; the figures are medians over rounds of the ratio within a round. Usage::

    python benchmarks/quick.py                 # every case, every backend
    python benchmarks/quick.py --cases ppo tiny
    python benchmarks/quick.py --cases ppo-loop   # with clipping and averages: benchmarks/loop.py
    python benchmarks/quick.py --cases 1e6-compact 124e6-compact   # less memory: benchmarks/compact.py
    python benchmarks/quick.py --cases patterns   # with ever other gradients missing: benchmarks/patterns.py
    python benchmarks/quick.py --check         # exit code 1 if a bar is missed

The copy-like loop (benchmarks/streams.py) stands for the memory bandwidth of the machine. docs/performance.md
has the figures seen, and what was tried.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam
from benchmarks import compact, denormal, interleaved, loop, patterns
from benchmarks.interleaved import ratio, seconds
from fastadam.backends import HOST
from fastadam.cli import contenders, shapes

AS_FAST = {layout: {"torch fused": 1.0} for layout in ("packed", "in place", "torch face")}
NEAR_BANDWIDTH = {layout: {"torch fused": 1.0, "copy": 0.9} for layout in AS_FAST}
MOST_FOR_LOOPS = 10**7  # parameters; torch's default, a loop of operators, would only take long with more
LEAST_FOR_COPY = 10**6  # parameters; smaller steps are not bound by memory
APART = 1.15  # how many times faster one backend may be than another
MOST_IMPORT, MOST_FIRST_STEP = 0.020, 0.6  # seconds


class Case(NamedTuple):
    """A set of shapes; how often to repeat; and the least ratios to others, by contender."""

    title: str
    shapes: Callable[[], shapes.Shapes]
    rounds: int
    steps: int
    gradient_sets: int
    bars: dict[str, dict[str, float]]


CASES = {
    "ppo": Case(
        "actor + critic, 12 tensors",
        shapes.ppo_pair,
        300,
        10,
        8,
        {"packed": {"torch fused": 20}, "in place": {"torch fused": 10}, "torch face": {"torch fused": 6}},
    ),
    "tiny": Case(
        "3,000 tiny tensors",
        shapes.tiny_tensors,
        25,
        2,
        8,
        {"packed": {"torch fused": 300}, "in place": {"torch fused": 20}, "torch face": {"torch fused": 10}},
    ),
    "mlp": Case(
        "784-256-256-10, 6 tensors",
        lambda: shapes.mlp(784, 256, 256, 10),
        150,
        3,
        4,
        {**AS_FAST, "packed": {"torch fused": 2}},
    ),
    "1e6": Case("1,000,000 in one tensor", lambda: [(10**6,)], 60, 3, 1, AS_FAST),
    "1e7": Case("10,000,000 in one tensor", lambda: [(10**7,)], 60, 1, 1, AS_FAST),
    "gpt2": Case("GPT-2 small, 148 tensors", shapes.gpt2_small, 15, 1, 1, NEAR_BANDWIDTH),
    "update": Case(
        "a whole PPO update in PyTorch",
        shapes.ppo_pair,
        200,
        5,
        1,
        {"torch face": {"torch fused": 1.1, "torch": 1.4}},
    ),
}


def make_steps(case: Case, backends: list[fastadam.Backend]) -> dict[str, Callable[[], object]]:
    """Return the step of each contender, by name."""
    if case is CASES["update"]:
        from benchmarks.suite import ppo

        return {**ppo.contenders(backends)}
    rng = np.random.default_rng(0)
    sizes = case.shapes()
    count = parameters(case)
    sets = [[rng.standard_normal(s, np.float32) for s in sizes] for _ in range(case.gradient_sets)]
    makers: dict[str, Callable[[contenders.Arrays, list[contenders.Arrays]], contenders.Step]] = {}
    if torch_threads():
        makers["torch fused"] = contenders.torch_adam(fused=True)
        if count <= MOST_FOR_LOOPS:
            makers["torch"] = contenders.torch_adam()
    makers["numpy"] = contenders.numpy_per_tensor
    for backend in backends:
        makers[f"packed {backend}"] = contenders.fastadam_packed(backend)
        makers[f"in place {backend}"] = contenders.fastadam_in_place(backend)
        if torch_threads():
            makers[f"torch face {backend}"] = contenders.torch_face(backend)
    steps = {name: make([np.full(s, 0.5, np.float32) for s in sizes], sets) for name, make in makers.items()}
    if count >= LEAST_FOR_COPY and "numba" in backends:
        from benchmarks.streams import copy_like

        steps["copy"] = copy_like(count)
    return steps


def parameters(case: Case) -> int:
    """Return the number of elements."""
    return sum(int(np.prod(s)) for s in case.shapes())


def measure(case: Case, backends: list[fastadam.Backend]) -> dict[str, list[float]]:
    """Return the seconds per step of each contender in each round."""
    many = case.steps > 1 and len(case.shapes()) > 1000

    def in_a_row(name: str) -> int:
        return 1 if many and name in ("numpy", "torch") else case.steps

    return interleaved.run(make_steps(case, backends), case.rounds, in_a_row, warm=case.steps > 1)


def torch_threads() -> int:
    """Return torch's number of threads, or 0 where torch is not installed."""
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.get_num_threads())


BASES = ("torch fused", "torch", "numpy", "copy")


def report(case: Case, times: dict[str, list[float]]) -> bool:
    """Print one case; return whether its bars are met."""
    print(f"\n{case.title}: {parameters(case):,} parameters")
    bases = [base for base in BASES if base in times or base != "copy"]
    print(f"  {'contender':16} {'us per step':>12}" + "".join(f"{'x ' + base:>14}" for base in bases) + "   bar")
    met = True
    for name, own in times.items():
        ratios = {base: ratio(times, base, name) for base in bases}
        bars = {} if name in BASES else case.bars.get(name.rpartition(" ")[0], {})
        asked = {base: bar for base, bar in bars.items() if not math.isnan(ratios.get(base, math.nan))}
        missed = [base for base, bar in asked.items() if ratios[base] < bar]
        met &= not missed
        said = ", ".join(f"{bar:g} x {base}" for base, bar in asked.items())
        verdict = f"{said} {'MISSED' if missed else 'met'}" if asked else ""
        columns = "".join(f"{'-':>14}" if math.isnan(found) else f"{found:14.2f}" for found in ratios.values())
        print(f"  {name:16} {statistics.median(own) * 1e6:12.1f}{columns}   {verdict}")
    return met & report_backends(times)


def report_backends(times: dict[str, list[float]]) -> bool:
    """Print how many times as fast C is as Numba in each layout; return whether they are alike."""
    found = {
        layout: ratio(times, f"{layout} numba", f"{layout} c")
        for layout in AS_FAST
        if f"{layout} numba" in times and f"{layout} c" in times
    }
    if not found:
        return True
    met = all(1 / APART <= each <= APART for each in found.values())
    said = ", ".join(f"{layout} {each:.2f}" for layout, each in found.items())
    print(f"  c x numba: {said}   {1 / APART:.2f} to {APART:g} {'met' if met else 'MISSED'}")
    return met


def report_overhead(backends: list[fastadam.Backend]) -> bool:
    """Print the cost of a packed step over one element beside that of one call of np.add."""
    a, b, c = np.ones(1), np.ones(1), np.empty(1)
    steps: dict[str, Callable[[], object]] = {"np.add": lambda: np.add(a, b, out=c)}
    for backend in backends:
        steps[backend] = fastadam.Adam(fastadam.pack([np.ones(1, np.float32)]), backend=backend).step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(300):
        for name, step in steps.items():
            times[name].append(seconds(step, 100))
    micro = {name: statistics.median(own) * 1e6 for name, own in times.items()}
    allowed = 4 * micro["np.add"] + 2
    print(f"\nOne packed parameter: np.add takes {micro['np.add']:.2f} us, so a step may take {allowed:.2f} us")
    met = True
    for backend in backends:
        met &= micro[backend] <= allowed
        print(f"  {backend:16} {micro[backend]:12.2f} us   {'met' if micro[backend] <= allowed else 'MISSED'}")
    return met


def report_startup(backends: list[fastadam.Backend]) -> bool:
    """Print what the import and each backend's first step take in a fresh process."""
    from benchmarks import startup

    rows = {"import": (startup.import_seconds(), MOST_IMPORT)}
    rows |= {f"first step {each}": (startup.first_step_seconds(each), MOST_FIRST_STEP) for each in backends}
    print("\nThe start of a process: import fastadam after numpy, and a first step with a warm cache")
    for name, (found, most) in rows.items():
        verdict = "met" if found <= most else "MISSED"
        print(f"  {name:16} {found * 1e3:12.1f} ms   at most {most * 1e3:g} {verdict}")
    return all(found <= most for found, most in rows.values())


def main() -> int:
    """Run the cases asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [*CASES, *loop.CASES, *compact.CASES, "patterns", "denormal", "overhead", "startup"]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    states = fastadam.available_backends()
    known = [name for name in HOST if states[name] == "available"]
    compiled = [name for name in known if name != "numpy"]
    parser.add_argument("--backends", nargs="+", choices=known, default=compiled)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    print(
        f"fastadam {fastadam.__version__}, numpy {np.__version__}, torch threads: {torch_threads() or 'no torch'}"
    )
    met = True
    for name in options.cases:
        if name == "overhead":
            met &= report_overhead(options.backends)
        elif name == "denormal":
            met &= denormal.report(options.backends, rounds=100)
        elif name == "patterns":
            met &= patterns.report(options.backends, torch=bool(torch_threads()))
        elif name == "startup":
            met &= report_startup(options.backends)
        elif (name == "update" or name in loop.CASES) and not torch_threads():
            print(f"\n{name}: torch is not installed")
        elif name in loop.CASES:
            met &= loop.report(name, options.backends)
        elif name in compact.CASES:
            met &= compact.report(name, options.backends)
        else:
            met &= report(CASES[name], measure(CASES[name], options.backends))
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
