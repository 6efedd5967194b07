"""The optimizers that are compared. Each factory takes arrays and gradient sets and returns a step function."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import fastadam

Arrays = list[np.ndarray[Any, Any]]
Step = Callable[[], object]


def numpy_per_tensor(params: Arrays, grad_sets: list[Arrays]) -> Step:
    """Adam as one writes it by hand with NumPy: a loop over tensors, a line per moment."""
    exp_avgs = [np.zeros_like(p) for p in params]
    exp_avg_sqs = [np.zeros_like(p) for p in params]
    cycle = itertools.cycle(grad_sets)
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        for p, g, m, v in zip(params, next(cycle), exp_avgs, exp_avg_sqs, strict=True):
            m *= 0.9
            m += 0.1 * g
            v *= 0.999
            v += 0.001 * g * g
            p -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return step


def torch_adam(**options: bool) -> Callable[[Arrays, list[Arrays]], Step]:
    """torch.optim.Adam with the gradients set once, which is the cheapest case for it."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        import torch

        tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        for tensor, grad in zip(tensors, grad_sets[0], strict=True):
            tensor.grad = torch.from_numpy(grad)
        step: Step = torch.optim.Adam(tensors, **options).step
        return step

    return make


def fastadam_packed(backend: str) -> Callable[[Arrays, list[Arrays]], Step]:
    """Fastadam over one packed buffer."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        flat = fastadam.pack(params)
        for view, grad in zip(flat.grad_views, grad_sets[0], strict=True):
            view[...] = grad
        return fastadam.Adam(flat, backend=backend).step

    return make


def fastadam_in_place(backend: str) -> Callable[[Arrays, list[Arrays]], Step]:
    """Fastadam over separate arrays, with a fresh list of gradients in each step."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        optimizer = fastadam.Adam(params, backend=backend)
        cycle = itertools.cycle(grad_sets)
        return lambda: optimizer.step(next(cycle))

    return make


def torch_face(backend: str) -> Callable[[Arrays, list[Arrays]], Step]:
    """fastadam.torch.Adam, with the gradients set once, as for torch's own."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        import torch

        import fastadam.torch

        tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        for tensor, grad in zip(tensors, grad_sets[0], strict=True):
            tensor.grad = torch.from_numpy(grad)
        optimizer = fastadam.torch.Adam(tensors)
        optimizer.backend = backend
        step: Step = optimizer.step
        return step

    return make
