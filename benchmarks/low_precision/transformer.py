"""A small language model, character by character, on Python's own manual (`pydoc_data.topics`).

PyTorch computes the gradients, in float32; what is stepped are NumPy views of its tensors' memory.
"""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.low_precision.settings import SETTINGS as SETTINGS
from benchmarks.low_precision.settings import Run, Setting, Trainee
from fastadam.schedules import OneCycle

TITLE = "Character transformer: loss on held-out text"
WIDTH, LAYERS, HEADS, CONTEXT = 64, 2, 4, 64
BATCH = 16
STEPS = 2000
LEARNING_RATE = 3e-3  # at its highest
WARM_UP = 0.05
POINTS = 20  # of a curve
HELD_OUT = 0.1  # of the text, its end
WINDOWS = 256  # of the held-out text, which losses are of


class Model(nn.Module):  # type: ignore[misc]
    """Attention looks back only; norms come first."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.character = nn.Embedding(characters, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, text: Tensor) -> Tensor:
        """Return what follows each character, (n, CONTEXT, characters)."""
        x = self.character(text) + self.place.weight
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=True)
        out: Tensor = self.out(self.norm(x))
        return out


def loss_of(model: nn.Module, text: Tensor, starts: Tensor) -> Tensor:
    """Return the mean cross-entropy of windows that begin at these places."""
    windows = text[starts[:, None] + torch.arange(CONTEXT + 1)]
    return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def train(setting: Setting, seed: int, steps: int = STEPS) -> Run:
    """Return the loss on held-out text in the end, and at even distances before."""
    torch.set_num_threads(1)
    manual = "\n".join(topics[name] for name in sorted(topics))
    characters = sorted(set(manual))
    index = {each: i for i, each in enumerate(characters)}
    text = torch.tensor([index[each] for each in manual])
    border = round(len(text) * (1 - HELD_OUT))
    text, held_out = text[:border], text[border:]
    windows = torch.linspace(0, len(held_out) - CONTEXT - 1, WINDOWS).long()

    torch.manual_seed(seed)
    model = Model(len(characters))
    params = list(model.parameters())
    views = [param.detach().numpy() for param in params]
    schedule: Any = OneCycle(LEARNING_RATE, steps, pct_start=WARM_UP)
    trainee = Trainee(views, setting, lr=schedule, seed=seed)
    curve = []
    for step in range(1, steps + 1):
        loss = loss_of(model, text, torch.randint(len(text) - CONTEXT, (BATCH,)))
        model.zero_grad()
        loss.backward()
        trainee.step([np.asarray(param.grad) for param in params])
        if step * POINTS % steps < POINTS:
            with torch.no_grad():
                curve.append(float(loss_of(model, held_out, windows)))
    return Run(curve[-1], curve)
