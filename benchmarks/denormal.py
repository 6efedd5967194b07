"""Time steps among numbers below the smallest normal one, with which many processors are slow.

Each contender is stepped over arrays of every kind in turns, in random order, in one process; the figures are
medians over rounds of the ratio to its own step over usual numbers. Usage::

    python benchmarks/denormal.py
    python benchmarks/denormal.py --check      # exit code 1 if a bar is missed

Moments whose gradients have been zero for long must cost nothing, nor those that were put there as denormal
numbers: fastadam sets them to zero. What the other kinds cost depends on the processor; docs/performance.md has
figures, and says what helps.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam
from fastadam.backends import HOST
from fastadam.cli.measure import timed

SIZE = 50_000
MOST = 1.1  # times a usual step
USUAL = "usual numbers"
STEPS_OF_ZERO = 2000


class Kind(NamedTuple):
    """What an optimizer is stepped over.

    Attributes
    ----------
    param, grad, moments : float or None
        The size of the numbers: those of a gradient are drawn, parameters and moments are all alike. Without
        `moments` they are what the steps make of them.
    steps_of_zero : int
        Steps with gradients of zero that are taken before, after one with usual gradients.
    bar : bool
        Whether `MOST` holds.
    """

    param: float = 1.0
    grad: float = 0.0
    moments: float | None = None
    steps_of_zero: int = 0
    bar: bool = False


def kinds(dtype: Any) -> dict[str, Kind]:
    """Return the kinds, by name."""
    tiny = float(np.finfo(dtype).smallest_normal)
    return {
        USUAL: Kind(grad=1.0),
        f"gradients zero for {STEPS_OF_ZERO:,} steps": Kind(steps_of_zero=STEPS_OF_ZERO, bar=True),
        "moments that were denormal": Kind(moments=0.4 * tiny, bar=True),
        "gradients whose squares are denormal": Kind(grad=0.3 * tiny**0.5),
        "denormal gradients": Kind(grad=0.2 * tiny),
        "denormal parameters": Kind(param=0.4 * tiny, grad=1.0),
    }


class Stepped(NamedTuple):
    """An optimizer over one array: its step, where its gradient lies, and its moments."""

    step: Callable[[], object]
    grad: np.ndarray
    moments: Callable[[], list[np.ndarray]]


def arrays(backend: fastadam.Backend, param: np.ndarray, lr: float) -> Stepped:
    """Return fastadam over a NumPy array."""
    optimizer, grad = fastadam.Adam([param], lr=lr, backend=backend, threads=1), np.zeros_like(param)
    return Stepped(
        lambda: optimizer.step([grad]),
        grad,
        lambda: [optimizer.state[0][name] for name in ("exp_avg", "exp_avg_sq")],
    )


def tensors(backend: str | None, param: np.ndarray, lr: float) -> Stepped:
    """Return fastadam's optimizer for PyTorch, or without a backend torch's fused one."""
    import torch

    import fastadam.torch

    parameter, grad = torch.nn.Parameter(torch.from_numpy(param)), np.zeros_like(param)
    parameter.grad = torch.from_numpy(grad)
    optimizer: Any
    if backend is None:
        optimizer = torch.optim.Adam([parameter], lr=lr, fused=True)
    else:
        optimizer = fastadam.torch.Adam([parameter], lr=lr)
        optimizer.backend, optimizer.threads = backend, 1
    return Stepped(
        optimizer.step,
        grad,
        lambda: [optimizer.state[parameter][name].numpy() for name in ("exp_avg", "exp_avg_sq")],
    )


def contenders(backends: list[fastadam.Backend]) -> dict[str, Callable[[np.ndarray, float], Stepped]]:
    """Return what makes each optimizer over an array with a learning rate, by name."""
    found: dict[str, Callable[[np.ndarray, float], Stepped]] = {}
    for name in backends:
        found[name] = lambda param, lr, name=name: arrays(name, param, lr)  # type: ignore[misc]
    if importlib.util.find_spec("torch") is None:
        return found
    for name in backends:
        found[f"torch face {name}"] = lambda param, lr, name=name: tensors(name, param, lr)  # type: ignore[misc]
    found["torch fused"] = lambda param, lr: tensors(None, param, lr)
    return found


@contextlib.contextmanager
def one_thread_of_torch() -> Iterator[None]:
    """Let torch use one thread meanwhile, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(make: Callable[[np.ndarray, float], Stepped], kind: Kind, dtype: Any) -> Callable[[], object]:
    """Return the step of an optimizer that has been brought to where it is to be measured."""
    # Parameters that are to stay denormal must not move.
    made = make(np.full(SIZE, kind.param, dtype), 0.0 if kind.param != 1.0 else 1e-3)
    drawn = np.random.default_rng(0).standard_normal(SIZE).astype(dtype)
    made.grad[...] = drawn
    made.step()
    if kind.steps_of_zero:
        made.grad[...] = 0
        for _ in range(kind.steps_of_zero):
            made.step()
    made.grad[...] = drawn * dtype(kind.grad)
    if kind.grad < 1:
        for moment in made.moments():
            moment[...] = moment if kind.steps_of_zero else kind.moments or 0
    for _ in range(8):  # in one of which small moments become zero
        made.step()
    return made.step


def measure(backends: list[fastadam.Backend], dtype: Any, rounds: int) -> dict[str, dict[str, float]]:
    """Return, by contender and kind, the median of its time in units of that over usual numbers."""
    steps = {
        name: {kind: prepare(make, each, dtype) for kind, each in kinds(dtype).items()}
        for name, make in contenders(backends).items()
    }
    rng = np.random.default_rng(0)
    ratios: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in own} for name, own in steps.items()}
    for _ in range(rounds):
        for name in rng.permutation(list(steps)).tolist():
            seconds = {}
            for kind in rng.permutation(list(steps[name])).tolist():
                steps[name][kind]()  # not timed: brings the arrays into the cache, where arithmetic counts
                seconds[kind] = timed(steps[name][kind], 1)
            for kind, own in seconds.items():
                ratios[name][kind].append(own / seconds[USUAL])
    return {name: {kind: statistics.median(own) for kind, own in each.items()} for name, each in ratios.items()}


def verdict(found: dict[str, dict[str, float]], dtype: Any) -> list[str]:
    """Return the bars that are missed."""
    barred = [kind for kind, each in kinds(dtype).items() if each.bar]
    return [
        f"{name}: {kind} {own[kind]:.2f}"
        for name, own in found.items()
        for kind in barred
        if name != "torch fused" and own[kind] > MOST
    ]


def report(backends: list[fastadam.Backend], rounds: int) -> bool:
    """Measure and print; return whether the bars are met."""
    met = True
    for dtype in (np.float32, np.float64):
        with one_thread_of_torch():
            found = measure(backends, dtype, rounds)
        print(f"\n{np.dtype(dtype)}, {SIZE:,} parameters on one thread: times a step over usual numbers")
        print(f"  {'':38}" + "".join(f"{name:>17}" for name in found))
        for kind, each in kinds(dtype).items():
            bar = f"   at most {MOST:g}" if each.bar else ""
            print(f"  {kind:38}" + "".join(f"{own[kind]:17.2f}" for own in found.values()) + bar)
        missed = verdict(found, dtype)
        print("  " + (f"MISSED: {', '.join(missed)}" if missed else "met"))
        met &= not missed
    return met


def main() -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    states = fastadam.available_backends()
    known = [name for name in HOST if states[name] == "available"]
    parser.add_argument("--backends", nargs="+", choices=known, default=known)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    met = report(options.backends, options.rounds)
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
