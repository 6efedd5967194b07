"""What goes wrong with other ways to round, which the library does not have; on the digits, with float32 weights.

`NearestMoments` keeps moments in bfloat16 rounded to nearest, `CodedRoots` state of 8 bits in which a root may
become 0; with 1 as the least code, the same code does what the library does, which shows that nothing else is at
fault.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from benchmarks.low_precision import digits
from benchmarks.low_precision.settings import REFERENCE, Floats, Run, Setting, Trainee
from benchmarks.low_precision.settings import SETTINGS as USUAL

TITLE = "Digits, a longer training: loss"
EPOCHS = 100
BLOCK = 64
BETAS, EPS = (0.9, 0.999), 1e-8


class NearestMoments(Trainee):
    """Moments are rounded to the nearest bfloat16 after each step."""

    def step(self, grads: Sequence[Floats]) -> None:
        """Take a step with float32 gradients."""
        super().step(grads)
        for state in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name][...] = state[name].astype(ml_dtypes.bfloat16)


class CodedRoots:
    """Adam with state of 8 bits that is rounded at random as the library's is, but a root may become 0.

    Parameters
    ----------
    seen : sequence of float32 ndarray
        The weights.
    setting : Setting
        Of which nothing is used.
    lr : callable
    seed : int
    least : int
        The least code of a root in a block that is not all zero: the library's is 1.
    """

    def __init__(self, seen: Sequence[Floats], setting: Setting, *, lr: Any, seed: int, least: int) -> None:
        self.params, self.lr, self.steps, self.least = list(seen), lr, 0, least
        self.rng = np.random.default_rng(seed)
        self.moments = [(np.zeros_like(each), np.zeros_like(each)) for each in self.params]

    def step(self, grads: Sequence[Floats]) -> None:
        """Take a step."""
        self.steps += 1
        lr, (beta1, beta2) = self.lr(self.steps), BETAS
        step_size = np.float32(lr / (1 - beta1**self.steps))
        inv_sqrt = np.float32((1 - beta2**self.steps) ** -0.5)
        for param, grad, (exp_avg, exp_avg_sq) in zip(self.params, grads, self.moments, strict=True):
            exp_avg += np.float32(1 - beta1) * (grad - exp_avg)
            exp_avg_sq += np.float32(1 - beta2) * (grad * grad - exp_avg_sq)
            root = np.sqrt(exp_avg_sq)
            param -= step_size * exp_avg / (root * inv_sqrt + np.float32(EPS))
            exp_avg[...] = self._coded(exp_avg, 127, None)
            exp_avg_sq[...] = self._coded(root, 255, self.least) ** 2

    def _coded(self, numbers: Floats, most: int, least: int | None) -> Floats:
        """Return what numbers are after they were kept as codes."""
        flat = np.pad(numbers.reshape(-1), (0, -numbers.size % BLOCK)).reshape(-1, BLOCK)
        scale = np.abs(flat).max(axis=1, keepdims=True) / np.float32(most)
        codes = np.floor(flat / np.where(scale > 0, scale, 1) + self.rng.random(flat.shape, np.float32))
        if least is not None:
            codes = np.maximum(codes, least)
        found: Floats = (codes * scale).reshape(-1)[: numbers.size].reshape(numbers.shape)
        return found


class Way(NamedTuple):
    """A setting, and what makes a trainee."""

    setting: Setting
    make: Callable[..., Any]


SETTINGS = {name: Way(USUAL[name], Trainee) for name in (REFERENCE, "bfloat16 state", "int8 state")} | {
    "bfloat16 state, nearest": Way(USUAL[REFERENCE], NearestMoments),
    "int8 state, zero roots": Way(USUAL[REFERENCE], functools.partial(CodedRoots, least=0)),
    "int8 state, the same code": Way(USUAL[REFERENCE], functools.partial(CodedRoots, least=1)),
}


def train(way: Way, seed: int, epochs: int = EPOCHS) -> Run:
    """Return the mean training loss of the last epoch and of each fourth one up to it."""
    run = digits.train(way.setting, seed, epochs, way.make)
    return Run(run.final, run.curve[::-1][::4][::-1])
