"""Time a packed float32 step from 10,000 to 100,000,000 parameters: is its cost linear, and without a cliff.

Every size is stepped by each backend on one thread, on two and on as many as the rule in fastadam/step/threads.py
takes, in turns with a copy-like loop (benchmarks/streams.py). Figures are lower quartiles over rounds: whatever
else the machine does adds, but for the odd round that finds more of a shared cache to itself. Usage::

    python benchmarks/sweep.py                          # a table and a verdict
    python benchmarks/sweep.py --most 1e7 --json sweep.json
    python benchmarks/sweep.py --from-json sweep.json --plot docs/sweep.png
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam
from fastadam.cli.contenders import Step
from fastadam.cli.measure import timed
from fastadam.step.threads import ELEMENTS_PER_THREAD

SECOND_THREAD = 2 * ELEMENTS_PER_THREAD  # the size from which on two threads are taken
SIZES = sorted([m * 10**e for e in (4, 5, 6, 7) for m in (1, 2, 5)] + [SECOND_THREAD - 16, SECOND_THREAD, 10**8])
LIMITS = {"1": 1, "2": 2, "auto": None}
ROUNDS = 25
SECONDS_AT_ONCE = 1e-3
SECONDS_PER_SIZE = 12.0
BEYOND_CACHES = 10**7  # from here on, an element costs what moving it costs

# What the verdict allows, as ratios.
SPREAD = 1.25  # of the cost of an element among the sizes beyond all caches
SLOWER = 1.10  # than on one thread, or than the dearest element of all
FIXED = 4e-6  # seconds that a step takes whatever its size
STEP_UP = 1.15  # of the time, from just below the threshold to it


def columns(backends: list[fastadam.Backend]) -> list[tuple[fastadam.Backend, str]]:
    """Return what is measured at each size: pairs of a backend and a limit of threads."""
    return [(backend, limit) for backend in backends for limit in LIMITS]


def measure(size: int, backends: list[fastadam.Backend]) -> dict[str, float]:
    """Return the seconds per step of each contender at one size, by name."""
    flat = fastadam.pack([np.full(size, 0.5, np.float32)])
    flat.grad[...] = 0.1
    steps: dict[str, Step] = {
        f"{backend} {limit}": fastadam.Adam(flat, lr=1e-9, backend=backend, threads=LIMITS[limit]).step
        for backend, limit in columns(backends)
    }
    if fastadam.available_backends()["numba"] == "available":
        from benchmarks.streams import copy_like

        steps["copy"] = copy_like(size)
    repeats = {}
    for name, step in steps.items():
        step()
        repeats[name] = max(1, int(SECONDS_AT_ONCE / timed(step, 2)))
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.monotonic() + SECONDS_PER_SIZE
    for done in range(ROUNDS):
        if done >= 3 and time.monotonic() > end:
            break
        for name in rng.permutation(list(steps)).tolist():
            steps[name]()  # not timed: brings its own memory back into the caches
            times[name].append(timed(steps[name], repeats[name]))
    return {name: float(np.quantile(own, 0.25)) for name, own in times.items()}


def verdict(found: dict[int, dict[str, float]], backends: list[fastadam.Backend]) -> list[tuple[str, bool]]:
    """Return statements about the curves, and whether each one holds."""
    said = []
    for backend in backends:
        auto = {size: times[f"{backend} auto"] for size, times in found.items()}
        per_element = {size: seconds / size for size, seconds in auto.items()}
        large = [cost for size, cost in per_element.items() if size >= BEYOND_CACHES]
        if large:
            spread = max(large) / min(large)
            said.append(
                (f"{backend}: cost per element beyond the caches varies {spread:.2f}-fold", spread <= SPREAD)
            )
        dearest = max(large or [per_element[max(found)]])
        worst = max((auto[size] - FIXED) / size / dearest for size in found)
        said.append((f"{backend}: no element costs more than {worst:.2f} x that of the largest", worst <= SLOWER))
        shared = {size: times for size, times in found.items() if size >= SECOND_THREAD}
        if shared:  # below, both are the same call
            slower = max(auto[size] / times[f"{backend} 1"] for size, times in shared.items())
            said.append(
                (f"{backend}: at most {slower:.2f} x the time on one thread at any size", slower <= SLOWER)
            )
        if SECOND_THREAD in auto and SECOND_THREAD - 16 in auto:
            up = auto[SECOND_THREAD] / auto[SECOND_THREAD - 16]
            said.append((f"{backend}: where the second thread comes in, time goes to {up:.2f} x", up <= STEP_UP))
    return said


def show(found: dict[int, dict[str, float]], backends: list[fastadam.Backend]) -> None:
    """Print the table."""
    names = [*(f"{backend} {limit}" for backend, limit in columns(backends)), "copy"]
    print("ns per parameter, by backend and limit of threads")
    print(f"{'parameters':>12}" + "".join(f"{name:>12}" for name in names) + f"{'GB/s':>8}{'x copy':>8}")
    for size, times in found.items():
        cells = "".join(f"{times[name] / size * 1e9:12.3f}" if name in times else f"{'-':>12}" for name in names)
        best = times[f"{backends[0]} auto"]
        share = f"{times['copy'] / best:8.2f}" if "copy" in times else f"{'-':>8}"
        print(f"{size:12,}{cells}{28e-9 * size / best:8.1f}{share}")


def plot(found: dict[int, dict[str, float]], backends: list[fastadam.Backend], path: Path) -> None:
    """Draw the cost of a parameter over the number of parameters."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    sizes = list(found)
    styles = {"1": ":", "2": "--", "auto": "-"}
    for color, backend in enumerate(backends):
        for limit, style in styles.items():
            cost = [found[size][f"{backend} {limit}"] / size * 1e9 for size in sizes]
            threads = f"threads={limit}" if limit != "auto" else "threads=None"
            axes.plot(sizes, cost, style, color=f"C{color}", marker=".", label=f"{backend}, {threads}")
    if all("copy" in times for times in found.values()):
        cost = [found[size]["copy"] / size * 1e9 for size in sizes]
        axes.plot(sizes, cost, color="0.6", linewidth=3, zorder=0, label="copy-like loop")
    axes.axvline(SECOND_THREAD, color="0.8", zorder=0)
    axes.text(SECOND_THREAD, 0.02, " second thread", transform=axes.get_xaxis_transform(), color="0.5")
    axes.set(xscale="log", xlabel="float32 parameters", ylabel="ns per parameter", ylim=0)
    axes.set_title("A packed step: the cost of a parameter")
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> int:
    """Measure or read, print, and return the exit code: 1 if the verdict is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name, state in fastadam.available_backends().items() if state == "available"]
    compiled = [name for name in known if name != "numpy"]
    parser.add_argument("--backends", nargs="+", choices=known, default=compiled or known)
    parser.add_argument("--least", type=float, default=min(SIZES), help="smallest size")
    parser.add_argument("--most", type=float, default=max(SIZES), help="largest size")
    parser.add_argument("--json", type=Path, help="keep the times in this file")
    parser.add_argument("--from-json", type=Path, help="take the times from this file")
    parser.add_argument("--plot", type=Path, help="draw the curves (needs matplotlib)")
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    if options.from_json:
        found = {int(size): times for size, times in json.loads(options.from_json.read_text()).items()}
    else:
        for size in SIZES:
            if options.least <= size <= options.most:
                found[size] = measure(size, options.backends)
                print(f"{size:,} done", file=sys.stderr)
    show(found, options.backends)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        plot(found, options.backends, options.plot)
    said = verdict(found, options.backends)
    for statement, holds in said:
        print(f"{'met   ' if holds else 'MISSED'} {statement}")
    return 0 if all(holds for _, holds in said) else 1


if __name__ == "__main__":
    sys.exit(main())
