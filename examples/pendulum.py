"""Fit a damped, driven pendulum to noisy measurements, with gradients from its sensitivity equations.

The angle q of a pendulum that a motor shakes with a known frequency W follows

    q'' = -k sin(q) - c q' + a cos(W t)

and is measured with noise. Unknown are the stiffness k, the damping c, the drive a, and the angle and speed at
the beginning. The derivatives s = dq/dp of the angle by each of these constants p follow equations of their own,
which one gets by differentiating the above by p:

    s'' = -k cos(q) s - c s' + (-sin(q) for k, -q' for c, cos(W t) for a, 0 for the others)

They are solved along with the pendulum, and give the gradient of the squared error, which Adam follows.

Needs fastadam and matplotlib. Run it with ``python examples/pendulum.py``.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _options import make_parser, positive
from _style import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save
from numpy.typing import NDArray

import fastadam
from fastadam.schedules import Cosine

NAMES = ("stiffness k", "damping c", "drive a", "first angle", "first speed")
TRUTH = np.array([9.0, 0.3, 2.0, 1.2, 0.0])
GUESS = np.array([7.0, 0.6, 1.0, 0.8, 0.5])  # where the fit starts
DRIVE_FREQUENCY = 2.0  # W
TIMES = np.linspace(0, 10, 101)
NOISE = 0.1  # standard deviation of a measured angle
LEARNING_RATE = 0.05  # at the start; falls to zero along a cosine

Floats = NDArray[np.float64]


class Fit(NamedTuple):
    """The constants before each step and after the last, shape (steps + 1, 5), and the loss of each step."""

    path: Floats
    losses: list[float]


def slope(t: float, y: Floats, constants: Floats) -> Floats:
    """Return the time derivative of the state.

    Parameters
    ----------
    t : float
        Time.
    y : array of shape (2, 6)
        In column 0 the angle and its speed, in columns 1 to 5 their derivatives by each of the constants.
    constants : array of shape (5,)
        See `NAMES`.
    """
    k, c, a = constants[:3]
    angle, speed = y[:, 0]
    result = np.empty_like(y)
    result[0] = y[1]
    result[1, 0] = -k * np.sin(angle) - c * speed + a * np.cos(DRIVE_FREQUENCY * t)
    result[1, 1:] = -k * np.cos(angle) * y[0, 1:] - c * y[1, 1:]
    result[1, 1:4] += -np.sin(angle), -speed, np.cos(DRIVE_FREQUENCY * t)
    return result


def simulate(constants: Floats) -> tuple[Floats, Floats]:
    """Return the angle at each of `TIMES`, and its derivatives by the constants, shape (times, 5)."""
    y = np.zeros((2, 6))
    y[:, 0] = constants[3:]  # the angle and the speed at the beginning ...
    y[:, 4:] = np.eye(2)  # ... and their derivatives by themselves
    history = [y[0]]
    for t, t_next in pairwise(TIMES):  # the classical Runge-Kutta method
        h = t_next - t
        k1 = slope(t, y, constants)
        k2 = slope(t + h / 2, y + h / 2 * k1, constants)
        k3 = slope(t + h / 2, y + h / 2 * k2, constants)
        k4 = slope(t_next, y + h * k3, constants)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        history.append(y[0])
    angles_and_derivatives = np.array(history)
    return angles_and_derivatives[:, 0], angles_and_derivatives[:, 1:]


def loss_and_gradient(constants: Floats, measured: Floats) -> tuple[float, Floats]:
    """Return half the mean squared error of the simulated angles, and its gradient, shape (5,)."""
    angles, derivatives = simulate(constants)
    error = angles - measured
    return float(error @ error) / len(error) / 2, error @ derivatives / len(error)


def measure(seed: int = 0) -> Floats:
    """Return the true angles with measurement noise."""
    return simulate(TRUTH)[0] + NOISE * np.random.default_rng(seed).standard_normal(len(TIMES))


def fit(measured: Floats, steps: int = 300) -> Fit:
    """Fit the five constants to measured angles."""
    constants = GUESS.copy()
    optimizer = fastadam.Adam(constants, lr=Cosine(LEARNING_RATE, steps))
    path, losses = [constants.copy()], []
    for _ in range(steps):
        loss, gradient = loss_and_gradient(constants, measured)
        optimizer.step(gradient)
        losses.append(loss)
        path.append(constants.copy())
    return Fit(np.array(path), losses)


def plot(measured: Floats, found: Fit, path: Path) -> None:
    """Draw the measurements with the first and the last fit, and how the constants found their values."""
    figure = new_figure(5.2)
    top, bottom = figure.subplots(2)
    top.plot(TIMES, measured, ".", color=GREY, label="measured")
    top.plot(TIMES, simulate(GUESS)[0], "--", color=ORANGE, lw=1.2, label="first guess")
    top.plot(TIMES, simulate(found.path[-1])[0], color=BLUE, label="fitted")
    top.set(xlabel="time (s)", ylabel="angle (rad)")
    top.legend(loc="lower right", ncols=3)
    for name, values, color in zip(NAMES, (found.path - TRUTH).T, (BLUE, ORANGE, GREEN, RED, GREY), strict=True):
        bottom.plot(values, color=color, label=name)
    bottom.set(xlabel="step", ylabel="constant minus true value")
    bottom.legend(loc="lower right", ncols=3)
    save(figure, path)


def main() -> None:
    """Measure, fit, print the constants and draw the picture."""
    parser = make_parser("Fit a pendulum to noisy measurements with fastadam.", "pendulum.png")
    parser.add_argument("--steps", type=positive, default=300, help="of the optimizer")
    args = parser.parse_args()
    measured = measure(args.seed)
    found = fit(measured, args.steps)
    print(f"{'':12}{'guess':>8}{'fitted':>9}{'true':>8}")
    for name, *values in zip(NAMES, GUESS, found.path[-1], TRUTH, strict=True):
        print(f"{name:12}{values[0]:8.2f}{values[1]:9.3f}{values[2]:8.2f}")
    plot(measured, found, args.plot)


if __name__ == "__main__":
    main()
