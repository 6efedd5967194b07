"""Steps in which ever other gradients are missing, beside those with all of them. A case of benchmarks/quick.py.

Agents that take turns, and a random half of the parameters: more patterns than plans are kept of. The figures are
medians over rounds of the ratio to the contender's own step with all gradients, and beside it the ratio to what
torch's fused Adam takes for the same.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fastadam

MOST = 2.0  # times a step with all gradients
ROUNDS, WARM = 60, 40  # more patterns come first than are kept
LAYOUTS = ("arrays", "torch face")
ALL = "all"


class Case(NamedTuple):
    """Agents with so many parameters each, of which some have gradients: one in turn, or a random half."""

    agents: int
    parameters: int
    pick: str
    shape: tuple[int, ...] = (16, 16)

    def patterns(self, pick: str) -> Iterator[list[bool]]:
        """Return which parameters have a gradient in each step, without end."""
        rng = random.Random(0)
        step = 0
        while True:
            if pick == ALL:
                active = {*range(self.agents)}
            elif pick == "turns":
                active = {step % self.agents}
            else:
                active = {*rng.sample(range(self.agents), self.agents // 2)}
            yield [agent in active for agent in range(self.agents) for _ in range(self.parameters)]
            step += 1


CASES = [
    Case(40, 6, "turns"),
    Case(24, 8, "half"),
    Case(12, 40, "half"),
    Case(3000, 1, "half", (8,)),
]


def report(backends: list[fastadam.Backend], *, torch: bool) -> bool:
    """Print all cases; return whether the bar is met."""
    print(f"\nChanging patterns of missing gradients: a step takes at most {MOST:g} times one with all of them")
    met = True
    for case in CASES:
        for backend in backends:
            for layout in LAYOUTS if torch else LAYOUTS[:1]:
                found, fused = measure(case, layout, backend)
                met &= found <= MOST
                beside = "" if fused is None else f", {fused:.1f} times as fast as torch fused"
                print(
                    f"  {case.agents} x {case.parameters} {case.pick:6} {layout} {backend:6} "
                    f"{found:6.2f} {'met' if found <= MOST else 'MISSED'}{beside}"
                )
    return met


def measure(case: Case, layout: str, backend: fastadam.Backend) -> tuple[float, float | None]:
    """Return how long a step takes, in units of one with all gradients, and beside torch's fused Adam."""
    make = _over_arrays if layout == "arrays" else _over_tensors
    steps = {pick: make(case, pick, backend) for pick in (ALL, case.pick)}
    if layout != "arrays":
        steps["fused"] = _over_tensors(case, case.pick, None)
    times: dict[str, list[float]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for i in range(WARM + ROUNDS):
        for name in rng.permutation(list(steps)).tolist():
            seconds = steps[name]()
            if i >= WARM:
                times[name].append(seconds)
    own = times[case.pick]

    def ratio(a: list[float], b: list[float]) -> float:
        return statistics.median(x / y for x, y in zip(a, b, strict=True))

    return ratio(own, times[ALL]), ratio(times["fused"], own) if "fused" in times else None


def _arrays(case: Case) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(case.shape).astype(np.float32) for _ in range(case.agents * case.parameters)]


def _over_arrays(case: Case, pick: str, backend: fastadam.Backend) -> Callable[[], float]:
    """Return what takes one step over arrays, and returns its seconds."""
    optimizer = fastadam.Adam(_arrays(case), backend=backend)
    grads, patterns = _arrays(case), case.patterns(pick)

    def step() -> float:
        given = [grad if there else None for grad, there in zip(grads, next(patterns), strict=True)]
        began = time.perf_counter()
        optimizer.step(given)
        return time.perf_counter() - began

    return step


def _over_tensors(case: Case, pick: str, backend: fastadam.Backend | None) -> Callable[[], float]:
    """Return what takes one step over tensors; without `backend` it is torch's own fused one."""
    import torch

    import fastadam.torch

    params = [torch.nn.Parameter(torch.from_numpy(array)) for array in _arrays(case)]
    if backend is None:
        optimizer = torch.optim.Adam(params, fused=True)
    else:
        optimizer = fastadam.torch.Adam(params)
        optimizer.backend = backend
    grads, patterns = list(map(torch.from_numpy, _arrays(case))), case.patterns(pick)

    def step() -> float:
        for param, grad, there in zip(params, grads, next(patterns), strict=True):
            param.grad = grad if there else None
        began = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - began

    return step
