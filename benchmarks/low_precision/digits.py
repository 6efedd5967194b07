"""Handwritten digits, as examples/digits_numpy.py has them, with weights in the layout of PyTorch's.

Each block of 64 numbers of the first layer is one unit of the hidden layer then, and has the pixels in the
corners, which are nearly always white, beside those in the middle: much harder for state of 8 bits than a block
for each pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.low_precision.settings import SETTINGS as SETTINGS
from benchmarks.low_precision.settings import Floats, Run, Setting, Trainee

TITLE = "Digits: training loss"
EPOCHS = 40


def train(setting: Setting, seed: int, epochs: int = EPOCHS, make: Callable[..., Any] = Trainee) -> Run:
    """Return the mean training loss of the last epoch and of each.

    Parameters
    ----------
    setting : Setting
    seed : int
    epochs : int
    make : callable
        Makes the trainee.
    """
    import digits_numpy as example
    from _digits import load_data

    from fastadam.schedules import Cosine

    images, _, digits, _ = load_data(seed)
    x = images.reshape(-1, 64)
    rng = np.random.default_rng(seed)
    initial = example.initial_params(rng)
    kept: dict[str, Floats] = {name: np.ascontiguousarray(each.T) for name, each in initial.items()}
    grads = {name: np.empty_like(each) for name, each in kept.items()}
    seen, written = ({name: each.T for name, each in arrays.items()} for arrays in (kept, grads))
    n_batches = len(x) // example.BATCH_SIZE
    trainee = make(list(kept.values()), setting, lr=Cosine(example.LEARNING_RATE, epochs * n_batches), seed=seed)
    losses: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):  # where it explodes
        for _ in range(epochs):
            order = rng.permutation(len(x))[: n_batches * example.BATCH_SIZE]
            for batch in order.reshape(n_batches, example.BATCH_SIZE):
                losses.append(example.loss_and_gradients(seen, written, x[batch], digits[batch]))
                trainee.step(list(grads.values()))
    curve = np.reshape(losses, (epochs, n_batches)).mean(axis=1).tolist()
    return Run(curve[-1], curve)
