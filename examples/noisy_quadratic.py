"""Minimize a noisy objective with SciPy, on which its own methods stop early and Adam arrives.

The function is half of a sum of squares, weighted from 1 to 30, in 20 dimensions; each evaluation adds normal
noise to its value and to its gradient, as a simulation or a batch of data does. BFGS and L-BFGS-B compare values
that differ by noise, find no way down, and stop. Nelder-Mead, which has no gradients, hardly gets going. Adam
uses the gradients alone, averages them, and comes to rest as its learning rate goes to zero. With ``--noise 0``,
the quasi-Newton methods are by far the better ones.

Needs fastadam, SciPy and matplotlib. Run it with ``python examples/noisy_quadratic.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _options import make_parser, positive
from _style import BLUE, GREEN, GREY, ORANGE, new_figure, save
from numpy.typing import NDArray
from scipy.optimize import minimize

import fastadam.scipy
from fastadam.schedules import Cosine

WEIGHTS = np.geomspace(1, 30, 20)
START = np.full(20, 2.0)

Floats = NDArray[np.float64]


def exact(x: Floats) -> float:
    """Return the value without noise; its minimum is 0."""
    return float(WEIGHTS @ x**2) / 2


class Noisy:
    """The objective, which returns a value and a gradient; `history` has the exact value of each evaluation."""

    def __init__(self, noise: float, seed: int) -> None:
        self.noise = noise
        self.rng = np.random.default_rng(seed)
        self.history: list[float] = []

    def __call__(self, x: Floats) -> tuple[float, Floats]:
        """Return the value and the gradient at x, both with noise."""
        self.history.append(exact(x))
        value = exact(x) + self.noise * self.rng.standard_normal()
        return value, WEIGHTS * x + self.noise * self.rng.standard_normal(20)

    def value(self, x: Floats) -> float:
        """Return the value alone, for methods that use no gradients."""
        return self(x)[0]


def run(noise: float, seed: int, steps: int) -> dict[str, tuple[float, list[float]]]:
    """Return for each method the exact value where it ends, and those of all its evaluations."""
    adam = {"lr": Cosine(0.05, steps), "maxiter": steps, "patience": None}
    methods: dict[str, tuple[str | Callable[..., Any], dict[str, Any]]] = {
        "Nelder-Mead": ("Nelder-Mead", {"maxfev": steps}),
        "BFGS": ("BFGS", {}),
        "L-BFGS-B": ("L-BFGS-B", {}),
        "Adam": (fastadam.scipy.adam, adam),
    }
    results = {}
    for name, (method, options) in methods.items():
        objective = Noisy(noise, seed)
        jac = None if name == "Nelder-Mead" else True  # True: the objective returns its gradient, too
        fun = objective if jac else objective.value
        found = minimize(fun, START, jac=jac, method=method, options=options)
        results[name] = exact(found.x), objective.history
    return results


def plot(results: dict[str, tuple[float, list[float]]], noise: float, path: Path) -> None:
    """Draw how near to the minimum each method has come, after each evaluation."""
    figure = new_figure(3.8)
    ax = figure.subplots()
    for (name, (value, history)), color in zip(results.items(), (GREY, GREEN, ORANGE, BLUE), strict=True):
        evaluations = np.arange(1, len(history) + 1)
        ax.loglog(evaluations, history, color=color, label=name)
        ax.plot(len(history), value, "o", color=color)
    ax.axhline(noise, color="black", ls=":", lw=1)
    ax.annotate("noise of one evaluation", (1, noise), xytext=(0, 3), textcoords="offset points", fontsize="small")
    ax.set(xlabel="evaluations", ylabel="exact value", title="20 variables, noisy values and gradients")
    ax.legend()
    save(figure, path)


def main() -> None:
    """Minimize the objective with each method, print where they arrive and draw the picture."""
    parser = make_parser("Minimize a noisy quadratic with SciPy's methods and with Adam.", "noisy_quadratic.png")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation")
    parser.add_argument("--steps", type=positive, default=2000, help="of Adam and of Nelder-Mead")
    args = parser.parse_args()
    results = run(args.noise, args.seed, args.steps)
    print(f"{'method':12}{'value':>12}{'evaluations':>14}   (at the start {exact(START):.1f}, at the minimum 0)")
    for name, (value, history) in results.items():
        print(f"{name:12}{value:12.5f}{len(history):14}")
    plot(results, args.noise, args.plot)


if __name__ == "__main__":
    main()
