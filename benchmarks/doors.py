"""What the doors to other libraries cost and gain.

``python -m benchmarks.doors`` measures all of them, ``python -m benchmarks.doors scipy --check`` one, with exit
code 1 if its bar is missed.

- nested: how much longer a step over 1,000 arrays in nested containers takes than over the flat list, gradients
  nested alike: a list of 500 dicts (wide), and dicts within dicts, two in each (deep).
- scipy: the overhead of an iteration over Rosenbrock's function in 10,000 dimensions, beside the objective and the
  step.
- sklearn: how many times as fast MLPClassifier's fit on the digits is as with its own optimizer, on one thread;
  beside it, how many times as fast with none.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import fastadam

DOORS = ("nested", "scipy", "sklearn")
MOST_NESTED = 1.5  # times the step over the flat list
MOST_OVERHEAD = 30e-6  # seconds an iteration
LEAST_RATIO = 1.15  # their fit over ours


def wide(arrays: list[Any]) -> Any:
    """Return a list of dicts of two arrays."""
    return [{"w": w, "b": b} for w, b in zip(arrays[::2], arrays[1::2], strict=True)]


def deep(arrays: list[Any]) -> Any:
    """Return dicts within dicts, two in each, down to single arrays."""
    half = len(arrays) // 2
    return {"left": deep(arrays[:half]), "right": deep(arrays[half:])} if half else arrays[0]


def nested_ratios(shape: tuple[int, ...] = (16, 16), count: int = 1000, rounds: int = 300) -> dict[str, float]:
    """Return how many times as long as over the flat list a step over each nesting takes: medians over rounds."""

    def arrays() -> list[Any]:
        return [np.ones(shape, np.float32) for _ in range(count)]

    rng = np.random.default_rng(0)
    nestings: dict[str, Callable[[list[Any]], Any]] = {"flat": list, "wide": wide, "deep": deep}
    steps = {}
    for name, nest in nestings.items():
        optimizer = fastadam.Adam(nest(arrays()), threads=1)
        steps[name] = functools.partial(optimizer.step, nest(arrays()))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name in rng.permutation(list(steps)).tolist():
            steps[name]()  # not timed: brings the contender's own arrays back into the cache
            began = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - began)
    return {
        name: statistics.median(own / flat for own, flat in zip(times[name], times["flat"], strict=True))
        for name in ("wide", "deep")
    }


def scipy_overhead(iterations: int = 3000) -> float:
    """Return the seconds of an iteration that are neither the objective's nor the step's: the median."""
    from scipy.optimize import minimize, rosen, rosen_der

    import fastadam.scipy as door

    inside = 0.0
    begun: list[tuple[float, float]] = []  # when each iteration began, and the time inside until then

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal inside
            began = time.perf_counter()
            if function is rosen:
                begun.append((began, inside))
            found = function(*arguments)
            inside += time.perf_counter() - began
            return found

        return call

    def make(*arguments: Any, **options: Any) -> Any:
        optimizer = fastadam.Adam(*arguments, **options)
        optimizer.step = timed(optimizer.step)  # type: ignore[method-assign]
        return optimizer

    options = {"lr": 1e-4, "maxiter": iterations, "threads": 1}
    with mock.patch.object(door, "Adam", make):
        minimize(timed(rosen), np.full(10_000, 0.7), jac=timed(rosen_der), method=door.adam, options=options)
    pairs = itertools.pairwise(begun)
    return statistics.median((end - begin) - (after - before) for (begin, before), (end, after) in pairs)


def sklearn_ratios(rounds: int = 25, epochs: int = 40) -> dict[str, float]:
    """Return how many times as fast a fit is with this library's steps, and with none."""
    import contextlib

    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
    from threadpoolctl import threadpool_limits

    from fastadam.sklearn import fast_adam

    x, y = load_digits(return_X_y=True)
    x = x / 16
    blocks: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
        "theirs": contextlib.nullcontext,
        "ours": fast_adam,
        "none": lambda: mock.patch.object(AdamOptimizer, "update_params", return_value=None),
    }

    def fit(name: str) -> float:
        # Weights that stay as they are must not end it sooner.
        model = MLPClassifier(random_state=0, max_iter=epochs, n_iter_no_change=epochs)
        with blocks[name](), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an end before convergence
            began = time.perf_counter()
            model.fit(x, y)
            return time.perf_counter() - began

    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in blocks}
    with threadpool_limits(1):
        for i in range(rounds + 1):
            for name in rng.permutation(list(blocks)).tolist():
                seconds = fit(name)
                if i:
                    times[name].append(seconds)
    return {name: min(times["theirs"]) / min(times[name]) for name in ("ours", "none")}


def main() -> int:
    """Measure, print, and with ``--check`` return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="What the doors to other libraries cost and gain.")
    parser.add_argument("doors", nargs="*", metavar="DOOR", help="nested, scipy or sklearn; all without it")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    arguments = parser.parse_args()
    unknown = {*arguments.doors} - {*DOORS}
    if unknown:
        parser.error(f"there is no door {', '.join(sorted(unknown))}; there are {', '.join(DOORS)}")
    met = True
    for door in arguments.doors or DOORS:
        if door != "nested" and importlib.util.find_spec(door) is None:
            print(f"{door}: not installed; pip install 'fastadam[{door}]'")
            met = False
            continue
        if door == "nested":
            ratios = nested_ratios()
            good = max(ratios.values()) <= MOST_NESTED
            found = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            said = f"a step over 1,000 arrays takes {found} times that over the flat list, bar {MOST_NESTED}"
        elif door == "scipy":
            overhead = scipy_overhead()
            good = overhead <= MOST_OVERHEAD
            bar = MOST_OVERHEAD * 1e6
            said = f"{overhead * 1e6:.1f} us an iteration beside the objective and the step, bar {bar:.0f}"
        else:
            ratios = sklearn_ratios()
            good = ratios["ours"] >= LEAST_RATIO
            said = (
                f"fit {ratios['ours']:.2f} times as fast as with its own optimizer, bar {LEAST_RATIO} "
                f"({ratios['none']:.2f} times with none)"
            )
        met &= good
        print(f"{door}: {said} {'met' if good else 'MISSED'}", flush=True)
    return int(arguments.check and not met)


if __name__ == "__main__":
    sys.exit(main())
