"""Steps over compact state and weights of 16 bits, beside the float32 step. Cases of benchmarks/quick.py.

The 8-bit optimizers of bitsandbytes and torchao take part where they are installed, in the case that is in the
cache: their steps on the CPU go through PyTorch's operations one by one, and are long enough.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastadam
from benchmarks import interleaved
from benchmarks.loop import Bar

BASE = "float32 {}"
# By what contenders are called: the dtype of parameters and gradients, and the options.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    BASE: ("float32", {}),
    "bfloat16 state {}": ("float32", {"state_dtype": "bfloat16"}),
    "int8 state {}": ("float32", {"state_dtype": "int8"}),
    "bfloat16 weights, masters, int8 state {}": ("bfloat16", {"state_dtype": "int8", "master_weights": True}),
    "bfloat16 weights at random, bfloat16 state {}": (
        "bfloat16",
        {"state_dtype": "bfloat16", "rounding": "stochastic"},
    ),
}
INT8 = "int8 state {}"
PEERS = ("bitsandbytes", "torchao")


class Case(NamedTuple):
    """A number of parameters, how often to repeat, and what is asked for."""

    title: str
    size: int
    rounds: int
    in_a_row: int
    peers: tuple[str, ...]
    bars: list[Bar]


CASES = {
    "1e6-compact": Case(
        "2**20 parameters, in the cache",
        2**20,
        60,
        3,
        PEERS,
        [
            Bar("bfloat16 state {}", BASE, 0.9),
            Bar(INT8, BASE, 0.6),
            *(Bar(INT8, peer, 5) for peer in PEERS),
        ],
    ),
    "124e6-compact": Case(
        "124,000,000 parameters",
        124_000_000,
        15,
        1,
        (),
        [
            Bar("bfloat16 state {}", BASE, 1.25),
            Bar(INT8, BASE, 1.4),
            Bar("bfloat16 weights, masters, int8 state {}", BASE, 1.5),
        ],
    ),
}


def report(name: str, backends: list[fastadam.Backend]) -> bool:
    """Print one case; return whether its bars are met."""
    case = CASES[name]
    steps = {
        each.format(backend): ours(backend, case.size, dtype, options)
        for backend in backends
        for each, (dtype, options) in OURS.items()
        if dtype == "float32" or importlib.util.find_spec("ml_dtypes")
    }
    for peer in case.peers:
        if importlib.util.find_spec(peer) and importlib.util.find_spec("torch"):
            steps[peer] = theirs(peer, case.size)
    rows = dict.fromkeys(case.peers, 1)
    times = interleaved.run(steps, case.rounds, lambda each: rows.get(each, case.in_a_row), warm=case.in_a_row > 1)
    print(f"\nCompact state, {case.title}")
    for each, own in times.items():
        best = min(own) / case.size * 1e9
        print(f"  {each:50} {statistics.median(own) * 1e6:12.1f} us, {best:.3f} ns each at best")
    met = True
    for bar in case.bars:
        for backend in backends:
            who, base = bar.name.format(backend), bar.base.format(backend)
            if who not in times or base not in times:
                print(f"  {who} / {base}: not measured, as what it needs is not installed")
                continue
            found = interleaved.ratio(times, base, who)
            met &= found >= bar.least
            verdict = "met" if found >= bar.least else "MISSED"
            print(f"  {who} / {base}: {found:.2f} times as fast (at least {bar.least:g}) {verdict}")
    return met


def ours(backend: fastadam.Backend, size: int, dtype: str, options: dict[str, Any]) -> Callable[[], object]:
    """Return the step of an optimizer over one array."""
    if dtype == "bfloat16":
        import ml_dtypes

        kind: Any = ml_dtypes.bfloat16
    else:
        kind = np.dtype(dtype)
    param, grad = np.full(size, 0.5, kind), gradient(size).astype(kind)
    optimizer = fastadam.Adam([param], backend=backend, **options)
    return lambda: optimizer.step([grad])


def theirs(peer: str, size: int) -> Callable[[], object]:
    """Return the step of another library's 8-bit Adam on the CPU."""
    import torch

    tensor = torch.nn.Parameter(torch.full((size,), 0.5))
    tensor.grad = torch.from_numpy(gradient(size))
    step: Callable[[], object] = importlib.import_module(f"{peer}.optim").Adam8bit([tensor]).step
    return step


def gradient(size: int) -> np.ndarray:
    """Return a gradient whose parts repeat, which is there soon."""
    part = np.random.default_rng(0).standard_normal(2**16, np.float32)
    return np.tile(part, math.ceil(size / part.size))[:size]
