"""A noisy objective, on which a quasi-Newton method stops early and Adam arrives.

The function is half of a sum of squares, weighted from 1 to 30, in 20 dimensions; each evaluation adds normal
noise to its value and to its gradient, as a simulation or a batch of data does. L-BFGS-B compares values that
differ by noise, its line search finds no way down, and it stops. Adam uses the gradients alone, averages them, and
comes to rest as its learning rate goes to zero. With ``--noise 0``, L-BFGS-B is by far the better one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

import fastadam.scipy
from fastadam.schedules import Cosine

WEIGHTS = np.geomspace(1, 30, 20)


def exact(x: np.ndarray) -> float:
    """Return the value without noise; its minimum is 0."""
    return float(WEIGHTS @ x**2) / 2


def noisy(noise: float, seed: int) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return the objective, which returns its value and its gradient."""
    rng = np.random.default_rng(seed)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        return exact(x) + noise * rng.standard_normal(), WEIGHTS * x + noise * rng.standard_normal(20)

    return fun


def main() -> None:
    """Minimize it with both methods, and print where they arrive."""
    parser = argparse.ArgumentParser(description="Minimize a noisy quadratic with L-BFGS-B and with Adam.")
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = np.full(20, 2.0)
    print(f"{'method':10}{'value':>12}{'evaluations':>14}   (at the start {exact(start):.1f}, at the minimum 0)")
    options = {"lr": Cosine(0.05, arguments.steps), "maxiter": arguments.steps, "patience": None}
    for name, method, given in (("L-BFGS-B", "L-BFGS-B", {}), ("Adam", fastadam.scipy.adam, options)):
        fun = noisy(arguments.noise, arguments.seed)
        found = minimize(fun, start, jac=True, method=method, options=given)
        print(f"{name:10}{exact(found.x):12.5f}{found.nfev:14}")


if __name__ == "__main__":
    main()
