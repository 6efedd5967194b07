"""A worked example: two parameters, gradients that one can follow with pencil and paper.

The loss is L = theta1**2 + 2 * theta2**2, so its gradient is (2 * theta1, 4 * theta2). From theta = (0.5, -0.3)
the first gradient is (1.0, -1.2); after one step m = (0.1, -0.12), v = (0.001, 0.00144), and, as both bias
corrections cancel on the first step, each parameter has moved by the learning rate: theta = (0.4, -0.2).

Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, Algorithm 1.
"""

from __future__ import annotations

import argparse

import numpy as np

import fastadam


def loss(theta: np.ndarray) -> float:
    """Return theta1**2 + 2 * theta2**2."""
    return float(theta[0] ** 2 + 2 * theta[1] ** 2)


def gradient(theta: np.ndarray) -> np.ndarray:
    """Return the gradient of `loss`, shape (2,)."""
    return np.array([2 * theta[0], 4 * theta[1]])


def main() -> None:
    """Take the steps and print a row for each."""
    parser = argparse.ArgumentParser(description="Print Adam's first steps on a small example.")
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps

    theta = np.array([0.5, -0.3])
    optimizer = fastadam.Adam(theta, lr=0.1, betas=(0.9, 0.999), eps=1e-8)

    columns = ["gradient", "m (exp_avg)", "v (exp_avg_sq)", "theta"]
    print(" step" + "".join(f"{column:>24}" for column in columns) + f"{'loss':>12}")
    print(f"{0:5}" + " " * 72 + pair(theta) + f"{loss(theta):12.6f}")
    for step in range(1, steps + 1):
        grad = gradient(theta)
        optimizer.step(grad)
        state = optimizer.state[0]
        cells = [grad, state["exp_avg"], state["exp_avg_sq"], theta]
        print(f"{step:5}" + "".join(map(pair, cells)) + f"{loss(theta):12.6f}")


def pair(values: np.ndarray) -> str:
    """Return two numbers as a table cell."""
    return f"{values[0]:12.6f}{values[1]:12.6f}"


if __name__ == "__main__":
    main()
