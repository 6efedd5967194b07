"""A small network that learns which of three spirals a point lies on, in plain NumPy."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np

import fastadam
from fastadam.schedules import Cosine

Array = np.ndarray[Any, Any]
ARMS = 3
POINTS = 200  # on each arm
WIDTHS = (2, 64, 64, ARMS)
BATCH = 60  # points of a step: so few that NumPy multiplies on one thread, which is faster than on all
STEPS = 6000


def spirals() -> tuple[Array, Array]:
    """Return points within the square from -1 to 1, and which arm each lies on."""
    rng = np.random.default_rng(0)
    radius = np.tile(np.linspace(0.06, 0.95, POINTS), ARMS)
    arm = np.repeat(np.arange(ARMS), POINTS)
    angle = 9 * radius + 2 * np.pi / ARMS * arm + rng.normal(0, 0.08, radius.size)
    points = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return points.astype(np.float32), arm


class Network:
    """Two layers of tanh and a softmax, with parameters and gradients in one packed buffer each."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        params: dict[str, Array] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(WIDTHS)):
            params[f"w{layer}"] = rng.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(np.float32)
            params[f"b{layer}"] = np.zeros(fan_out, np.float32)
        self.flat = fastadam.pack(params)

    def forward(self, points: Array) -> list[Array]:
        """Return what comes out of each layer, of the last one probabilities."""
        w = self.flat.params
        outputs = [points]
        for layer in (0, 1):
            outputs.append(np.tanh(outputs[-1] @ w[f"w{layer}"] + w[f"b{layer}"]))
        scores = outputs[-1] @ w["w2"] + w["b2"]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return [*outputs, scores / scores.sum(axis=1, keepdims=True)]

    def backward(self, outputs: list[Array], arm: Array) -> None:
        """Write the gradients of the mean cross-entropy to where the optimizer finds them."""
        w, grads = self.flat.params, self.flat.grads
        signal = outputs[3].copy()
        signal[np.arange(arm.size), arm] -= 1
        signal /= arm.size
        for layer in (2, 1, 0):
            np.matmul(outputs[layer].T, signal, out=grads[f"w{layer}"])
            np.sum(signal, axis=0, out=grads[f"b{layer}"])
            if layer:
                signal = (signal @ w[f"w{layer}"].T) * (1 - outputs[layer] ** 2)


class Training:
    """The network, its optimizer and what came of it so far.

    Attributes
    ----------
    losses : list of float
        Mean over the points of each step, before it.
    in_optimizer : float
        Seconds that the optimizer's steps took, together.
    """

    def __init__(self, backend: fastadam.Backend, steps: int = STEPS) -> None:
        self.points, self.arm = spirals()
        self.network = Network()
        self.steps = steps
        self.optimizer = fastadam.Adam(self.network.flat, lr=Cosine(0.005, steps=steps), backend=backend)
        self.losses: list[float] = []
        self.in_optimizer = 0.0
        self.rng = np.random.default_rng(0)
        self.order = np.empty(0, int)  # of the points that are left of this turn over all of them

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return int(self.network.flat.param.size)

    def step(self) -> None:
        """Compute the gradients over some of the points, and take a step."""
        if not self.order.size:
            self.order = self.rng.permutation(self.arm.size)
        chosen, self.order = self.order[:BATCH], self.order[BATCH:]
        arm = self.arm[chosen]
        outputs = self.network.forward(self.points[chosen])
        right = outputs[-1][np.arange(arm.size), arm]
        loss = -np.log(np.maximum(right, 1e-12)).mean()
        self.losses.append(
            max(float(loss), 1e-9)
        )  # above zero even where all is right: it is drawn by its logarithm
        self.network.backward(outputs, arm)
        start = time.perf_counter()
        self.optimizer.step()
        self.in_optimizer += time.perf_counter() - start

    def accuracy(self) -> float:
        """Return the share of all points that the network gets right."""
        return float((self._probabilities(self.points).argmax(axis=1) == self.arm).mean())

    def decisions(self, columns: int, rows: int) -> Array:
        """Return what the network makes of a grid over the square: probabilities by row, column and arm."""
        x, y = np.meshgrid(_middles(columns), _middles(rows)[::-1])
        grid = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
        return self._probabilities(grid).reshape(rows, columns, ARMS)

    def _probabilities(self, points: Array) -> Array:
        parts = [self.network.forward(points[first : first + BATCH])[-1] for first in range(0, len(points), BATCH)]
        return np.concatenate(parts)


def _middles(count: int) -> Array:
    """Return the middles of so many equal parts from -1 to 1."""
    return (np.arange(count) + 0.5) * 2 / count - 1
