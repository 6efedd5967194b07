"""Solve Burgers' equation with a physics-informed network, in NumPy and autograd.

The equation, of a wave that steepens into a shock and is smoothed by the viscosity nu, is

    u_t + u u_x = nu u_xx,    u(0, x) = -sin(pi x),    u(t, -1) = u(t, 1) = 0

The network is the solution: u(t, x) is what it returns. Its loss is the mean square of the equation's residual
at random points, where autograd computes the derivatives. The initial and boundary values need no loss of their
own, as they are built in: u = -sin(pi x) + t (1 - x^2) network(t, x).

autograd returns gradients nested as the parameters are, and ``step`` takes them so.

Needs fastadam, autograd (``pip install autograd``) and matplotlib. Run it with ``python examples/pinn.py``.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import autograd.numpy as np
from _options import make_parser, positive
from _style import BLUE, GREEN, GREY, ORANGE, new_figure, rows_of, save
from autograd import elementwise_grad, value_and_grad
from numpy.polynomial.hermite import hermgauss
from numpy.typing import NDArray

import fastadam
from fastadam.schedules import Cosine

VISCOSITY = 0.05  # nu
SIZES = (2, 16, 16, 16, 1)  # of the network's layers
POINTS = 300  # in a batch
LEARNING_RATE = 0.01  # at the start; falls to zero along a cosine

Floats = NDArray[Any]
Params = list[dict[str, Floats]]


def initial_params(rng: np.random.Generator) -> Params:
    """Return random weights and zero biases, a dict for each layer."""
    return [
        {"weight": rng.standard_normal((n_in, n_out)) / np.sqrt(n_in), "bias": np.zeros(n_out)}
        for n_in, n_out in pairwise(SIZES)
    ]


def u(params: Params, t: Floats, x: Floats) -> Floats:
    """Return the solution at points (t, x), each of shape (n,)."""
    values = np.stack([t, x], axis=1)
    for layer in params[:-1]:
        values = np.tanh(values @ layer["weight"] + layer["bias"])
    network = (values @ params[-1]["weight"] + params[-1]["bias"])[:, 0]
    solution: Floats = -np.sin(np.pi * x) + t * (1 - x**2) * network
    return solution


u_t = elementwise_grad(u, 1)
u_x = elementwise_grad(u, 2)
u_xx = elementwise_grad(u_x, 2)


def loss(params: Params, t: Floats, x: Floats) -> Any:
    """Return the mean square of what is left of the equation."""
    transport = u_t(params, t, x) + u(params, t, x) * u_x(params, t, x)
    residual = transport - VISCOSITY * u_xx(params, t, x)
    return np.mean(residual**2)


def exact(t: float, x: Floats) -> Floats:
    """Return the true solution at one time t > 0.

    The transformation of Cole and Hopf has it as a ratio of two integrals over a normal distribution, which
    Gauss-Hermite quadrature computes.
    """
    nodes, weights = hermgauss(100)
    y = x[:, None] - np.sqrt(4 * VISCOSITY * t) * nodes
    factors = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * VISCOSITY))
    solution: Floats = -(np.sin(np.pi * y) * factors).sum(axis=1) / factors.sum(axis=1)
    return solution


def train(seed: int = 0, steps: int = 1500) -> tuple[Params, list[float]]:
    """Return the network's parameters, and the loss of every step."""
    rng = np.random.default_rng(seed)
    params = initial_params(rng)
    optimizer = fastadam.Adam(params, lr=Cosine(LEARNING_RATE, steps))
    loss_and_gradients = value_and_grad(loss)
    losses = []
    for _ in range(steps):
        t, x = rng.random(POINTS), rng.uniform(-1, 1, POINTS)
        value, gradients = loss_and_gradients(params, t, x)
        optimizer.step(gradients)
        losses.append(float(value))
    return params, losses


def plot(params: Params, losses: list[float], path: Path) -> None:
    """Draw the solution over time and place, at three times beside the true one, and the loss."""
    figure = new_figure(5.0)
    top, bottom = rows_of(figure, 4, 3)
    left, right = top.subplots(1, 2, width_ratios=(3, 4))
    x = np.linspace(-1, 1, 101)
    times = np.linspace(0, 1, 101)
    values = np.array([u(params, np.full(101, t), x) for t in times])
    image = left.contourf(times, x, values.T, levels=np.linspace(-1, 1, 21), cmap="RdBu")
    left.set(xlabel="t", ylabel="x", title="u(t, x)")
    top.colorbar(image, ax=left)
    for t, color in ((0.1, BLUE), (0.4, ORANGE), (1.0, GREEN)):
        right.plot(x, u(params, np.full(101, t), x), color=color, label=f"network, t = {t}")
        right.plot(x, exact(t, x), ":", color="black", lw=1.2)
    right.plot([], [], ":", color="black", lw=1.2, label="true solution")
    right.set(xlabel="x", title="u at three times")
    right.legend(fontsize="small")
    ax = bottom.subplots()
    ax.semilogy(losses, color=GREY, lw=0.8)
    ax.set(xlabel="step", title="Mean squared residual of the equation")
    save(figure, path)


def largest_error(params: Params) -> float:
    """Return the largest difference from the true solution on a grid of 4 x 101 points."""
    x = np.linspace(-1, 1, 101)
    return max(float(np.abs(u(params, np.full(101, t), x) - exact(t, x)).max()) for t in (0.25, 0.5, 0.75, 1.0))


def main() -> None:
    """Solve the equation, print the error and draw the picture."""
    parser = make_parser("Solve Burgers' equation with a network, autograd and fastadam.", "pinn.png")
    parser.add_argument("--steps", type=positive, default=1500, help="of the optimizer")
    args = parser.parse_args()
    params, losses = train(args.seed, args.steps)
    print(f"Largest error: {largest_error(params):.4f} (u goes from -1 to 1)")
    plot(params, losses, args.plot)


if __name__ == "__main__":
    main()
