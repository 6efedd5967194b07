"""The optimizers that are compared. Each factory takes arrays and gradient sets and returns a step function."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import fastadam

Arrays = list[np.ndarray[Any, Any]]
Step = Callable[[], object]
Maker = Callable[[Arrays, list[Arrays]], Step]
BY_HAND = "NumPy by hand"  # what `numpy_per_tensor` is called


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


def torch_adam(**options: bool) -> Maker:
    """torch.optim.Adam with the gradients set once, which is the cheapest case for it."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        import torch  # the only module that imports it

        tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        for tensor, grad in zip(tensors, grad_sets[0], strict=True):
            tensor.grad = torch.from_numpy(grad)
        step: Step = torch.optim.Adam(tensors, **options).step
        return step

    return make


def optax_adam(params: Arrays, grad_sets: list[Arrays]) -> Step:
    """optax.adam, compiled as a whole and with donated buffers; a step ends when its numbers are there."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # or JAX starts an accelerator that nobody asks for
    import jax
    import optax

    if params[0].dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    optimizer = optax.adam(1e-3)
    cpu = jax.local_devices(backend="cpu")[0]
    # Copies: JAX would otherwise take over memory that is not its own to give away.
    tensors, grads = (jax.device_put(arrays, cpu, may_alias=False) for arrays in (params, grad_sets[0]))
    state = optimizer.init(tensors)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(tensors: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, tensors)
        return optax.apply_updates(tensors, updates), state

    def step() -> None:
        nonlocal tensors, state
        tensors, state = jax.block_until_ready(update(tensors, state, grads))

    return step


def fastadam_packed(backend: fastadam.Backend, threads: int | None = None) -> Maker:
    """Fastadam over one packed buffer."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        flat = fastadam.pack(params)
        for view, grad in zip(flat.grad_views, grad_sets[0], strict=True):
            view[...] = grad
        return fastadam.Adam(flat, backend=backend, threads=threads).step

    return make


def fastadam_in_place(backend: fastadam.Backend, threads: int | None = None, **options: Any) -> Maker:
    """Fastadam over separate arrays, with a fresh list of gradients in each step."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        optimizer = fastadam.Adam(params, backend=backend, threads=threads, **options)
        cycle = itertools.cycle(grad_sets)
        return lambda: optimizer.step(next(cycle))

    return make


def torch_face(backend: fastadam.Backend, threads: int | None = None) -> Maker:
    """fastadam.torch.Adam, with the gradients set once, as for torch's own."""

    def make(params: Arrays, grad_sets: list[Arrays]) -> Step:
        import torch

        from fastadam.torch import Adam

        tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        for tensor, grad in zip(tensors, grad_sets[0], strict=True):
            tensor.grad = torch.from_numpy(grad)
        optimizer = Adam(tensors)
        optimizer.backend, optimizer.threads = backend, threads
        step: Step = optimizer.step
        return step

    return make
