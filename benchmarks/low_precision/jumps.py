"""How far a step moves a number after its gradient was zero for long, with int8 state and with float32.

In blocks of 64, 32 elements are silent and 32 of other sizes are not; then the silent ones get gradients again, a
thousandth to a thousand times as large as before.
"""

from __future__ import annotations

import numpy as np

import fastadam

BLOCK, SILENT = 64, 32
BLOCKS = 4000
USUAL, SILENCES = 100, (200, 1000, 3000)  # steps


def measure() -> dict[str, float]:
    """Return by what factors steps were larger than float32's, and the largest, in learning rates."""
    factors, sizes, usual_sizes = [], [], []
    for silence in SILENCES:
        size, usual = after(silence)
        factors.append(size / usual)
        sizes.append(size.max())
        usual_sizes.append(usual.max())
    factor = np.concatenate(factors)
    found = {
        "numbers": factor.size,
        "median": np.median(factor),
        "largest": factor.max(),
        "twice": np.mean(factor > 2),
        "six times": np.mean(factor > 6),
        "int8": max(sizes),
        "float32": max(usual_sizes),
    }
    return {name: float(f"{each:.4g}") for name, each in found.items()}


def after(silence: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the first step after a silence moves each number: with int8, and with float32."""
    rng = np.random.default_rng(silence)
    scales = np.ones((BLOCKS, BLOCK))
    scales[:, 1:SILENT] = 10 ** rng.uniform(-4, 0, (BLOCKS, SILENT - 1))
    scales[:, SILENT:] = 10 ** rng.uniform(-4, 0, (BLOCKS, 1))
    own, usual = np.zeros((2, BLOCKS * BLOCK), np.float32)
    optimizers = (
        fastadam.Adam([own], lr=1.0, state_dtype="int8", backend="c"),
        fastadam.Adam([usual], lr=1.0, backend="c"),
    )
    factors = [np.ones(1)] * USUAL + [np.zeros(1)] * silence + [10 ** rng.uniform(-3, 3, (BLOCKS, SILENT))]
    for factor in factors:
        grad = rng.standard_normal((BLOCKS, BLOCK), np.float32) * scales.astype(np.float32)
        grad[:, SILENT:] *= factor
        own[...] = usual[...] = 0  # so that steps can be told from what was there
        for optimizer in optimizers:
            optimizer.step([grad.reshape(-1)])
    moved = np.abs(np.stack([own, usual])).reshape(2, BLOCKS, BLOCK)[:, :, SILENT:]
    return moved[0].reshape(-1), moved[1].reshape(-1)
