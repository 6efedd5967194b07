"""What the doors to other libraries cost and gain. Usage::

    python -m benchmarks.doors                  # all that are installed
    python -m benchmarks.doors scipy --check    # exit code 1 if a bar is missed

scipy: the overhead of an iteration over Rosenbrock's function in 10,000 dimensions, beside the objective and the step.
sklearn: the time of MLPClassifier's fit on the digits with its own optimizer, in terms of that with ours, on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import fastadam

MOST_OVERHEAD = 30e-6  # seconds an iteration
LEAST_RATIO = 1.15  # their fit over ours


def scipy_overhead(rounds: int = 40, iterations: int = 50) -> float:
    """Return the seconds of an iteration that are neither the objective's nor the step's."""
    from scipy.optimize import minimize, rosen, rosen_der

    from fastadam.scipy import adam

    start = np.full(10_000, 0.7)
    inside = 0.0

    def timed(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            nonlocal inside
            began = time.perf_counter()
            found = function(x)
            inside += time.perf_counter() - began
            return found

        return call

    x = start.copy()
    gradients = [rosen_der(start + i / 100) for i in range(iterations)]
    optimizer = fastadam.Adam(x, lr=1e-4, threads=1)
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for gradient in gradients:
            optimizer.step(gradient)
        steps = time.perf_counter() - began
        inside = 0.0
        began = time.perf_counter()
        minimize(
            timed(rosen),
            start,
            jac=timed(rosen_der),
            method=adam,
            options={"lr": 1e-4, "maxiter": iterations, "threads": 1},
        )
        found.append((time.perf_counter() - began - inside - steps) / iterations)
    # Whatever else the machine does adds to most rounds, and takes off where it falls on the steps.
    return statistics.quantiles(found, n=4)[0]


def sklearn_ratio(rounds: int = 9, epochs: int = 40) -> float:
    """Return how many times as fast a fit is with this library's steps."""
    import contextlib

    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    from fastadam.sklearn import fast_adam

    x, y = load_digits(return_X_y=True)
    x = x / 16

    def fit(block: contextlib.AbstractContextManager[None]) -> float:
        model = MLPClassifier(random_state=0, max_iter=epochs)
        with block, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an end before convergence
            began = time.perf_counter()
            model.fit(x, y)
            return time.perf_counter() - began

    with threadpool_limits(1):
        pairs = []
        for i in range(rounds + 1):
            if i % 2:
                theirs = fit(contextlib.nullcontext())
                ours = fit(fast_adam())
            else:
                ours = fit(fast_adam())
                theirs = fit(contextlib.nullcontext())
            pairs.append((theirs, ours))
    return min(theirs for theirs, _ in pairs[1:]) / min(ours for _, ours in pairs[1:])


def main() -> int:
    """Measure, print, and with ``--check`` return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("Usage")[0])
    parser.add_argument("doors", nargs="*", choices=["scipy", "sklearn", []], default=["scipy", "sklearn"])
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    arguments = parser.parse_args()
    met = True
    for door in arguments.doors:
        if importlib.util.find_spec(door) is None:
            print(f"{door}: not installed; pip install 'fastadam[{door}]'")
            met = False
            continue
        if door == "scipy":
            overhead = scipy_overhead()
            good = overhead <= MOST_OVERHEAD
            said = f"{overhead * 1e6:.1f} us an iteration beside the objective and the step, bar {MOST_OVERHEAD * 1e6:.0f}"
        else:
            ratio = sklearn_ratio()
            good = ratio >= LEAST_RATIO
            said = f"fit {ratio:.2f} times as fast as with its own optimizer, bar {LEAST_RATIO}"
        met &= good
        print(f"{door}: {said} {'met' if good else 'MISSED'}", flush=True)
    return int(arguments.check and not met)


if __name__ == "__main__":
    sys.exit(main())
