"""Compare how much decoupled weight decay arrives in float32 with how much was asked for.

Parameters of 1 are stepped with noisy gradients, with and without decay; the difference is what has arrived, and
that in float64 is what was asked for. Usage::

    python benchmarks/decay.py
    python benchmarks/decay.py --check      # exit code 1 if fastadam is off by more than 5 %

torch and optax are compared where they are installed.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam
from fastadam.backends import HOST

SIZE, STEPS = 2048, 4000
LR = 1e-3
RATES = (1e-9, 1e-8, 3e-8, 1e-7, 3e-7, 1e-6, 1e-5, 1e-4)  # learning rate times weight decay
MOST_OFF = 0.05

# Returns the mean parameter after all steps with a weight decay.
Run = Callable[[float], float]


def arrays(backend: fastadam.Backend, dtype: Any, grads: np.ndarray) -> Run:
    """Return runs of fastadam over NumPy arrays."""

    def run(weight_decay: float) -> float:
        param = np.ones(SIZE, dtype)
        optimizer = fastadam.AdamW([param], lr=LR, weight_decay=weight_decay, backend=backend)
        for grad in grads:
            optimizer.step([grad.astype(dtype, copy=False)])
        return float(param.mean(dtype=np.float64))

    return run


def tensors(cls: Callable[..., Any], grads: np.ndarray) -> Run:
    """Return runs of an optimizer for PyTorch."""
    import torch

    def run(weight_decay: float) -> float:
        param = torch.nn.Parameter(torch.ones(SIZE))
        optimizer = cls([param], lr=LR, weight_decay=weight_decay)
        for grad in torch.from_numpy(grads):
            param.grad = grad
            optimizer.step()
        return float(param.detach().double().mean())

    return run


def optax_adamw(grads: np.ndarray) -> Run:
    """Return runs of optax.adamw."""
    import jax
    import optax

    def run(weight_decay: float) -> float:
        optimizer = optax.adamw(LR, weight_decay=weight_decay)
        param = jax.numpy.ones(SIZE, np.float32)

        def step(carry: Any, grad: Any) -> Any:
            param, state = carry
            updates, state = optimizer.update(grad, state, param)
            return (optax.apply_updates(param, updates), state), None

        (param, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, grads))((param, optimizer.init(param)))
        return float(np.asarray(param, np.float64).mean())

    return run


def runs(grads: np.ndarray) -> dict[str, Run]:
    """Return the runs in float32, by name: fastadam's first."""
    states = fastadam.available_backends()
    found: dict[str, Run] = {name: arrays(name, np.float32, grads) for name in HOST if states[name] == "available"}
    try:
        import torch

        from fastadam.torch import AdamW

        found["torch face"] = tensors(AdamW, grads)
        found["torch"] = tensors(torch.optim.AdamW, grads)
        found["torch fused"] = tensors(functools.partial(torch.optim.AdamW, fused=True), grads)
    except ImportError:
        pass
    try:
        import optax  # noqa: F401

        found["optax"] = optax_adamw(grads)
    except ImportError:
        pass
    return found


def main() -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if fastadam is off by more than 5 %%")
    options = parser.parse_args()
    grads = np.random.default_rng(0).standard_normal((STEPS, SIZE), np.float32)
    exact, found = arrays("auto", np.float64, grads), runs(grads)
    without = {name: run(0.0) for name, run in found.items()}
    exact_without, met = exact(0.0), True
    print(f"decoupled weight decay in float32, {STEPS:,} steps: the share of what was asked for that has arrived")
    print(f"{'lr * weight_decay':>18}" + "".join(f"{name:>13}" for name in found))
    for rate in RATES:
        asked = exact_without - exact(rate / LR)
        shares = {name: (without[name] - run(rate / LR)) / asked for name, run in found.items()}
        print(f"{rate:>18g}" + "".join(f"{share:>13.3f}" for share in shares.values()), flush=True)
        met &= all(abs(shares[name] - 1) <= MOST_OFF for name in shares if name in (*HOST, "torch face"))
    print(f"fastadam within {MOST_OFF:.0%}: {'met' if met else 'MISSED'}")
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
