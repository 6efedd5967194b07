"""A small language model for ``rlhf_torch.py``, which learns to write like Python's manual, letter by letter."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

import torch
from torch import nn

import fastadam.torch

LETTERS = " abcdefghijklmnopqrstuvwxyz"
CONTEXT = 8  # letters that a model looks back
LENGTH = 32  # letters in a text
TEXTS = 64  # in a batch


def letter_model(n_outputs: int) -> nn.Sequential:
    """Make a network that turns windows of letters, (n, length, CONTEXT), into outputs, (n, length, n_outputs)."""
    layers = [nn.Embedding(len(LETTERS), 16), nn.Flatten(2), nn.Linear(16 * CONTEXT, 128)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(128, n_outputs))


def outputs(model: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """Return a model's outputs after each letter of texts, (n, length); before a text there are spaces."""
    return model(nn.functional.pad(text, (CONTEXT - 1, 0)).unfold(1, CONTEXT, 1))


def log_probs(model: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of every letter but the first, given those before it, (n, length - 1)."""
    return outputs(model, text[:, :-1]).log_softmax(dim=2).gather(2, text[:, 1:, None])[..., 0]


def write(model: nn.Module, n: int) -> torch.Tensor:
    """Let the model write n texts, (n, 1 + LENGTH); the first letter is a space."""
    text = torch.zeros(n, 1, dtype=torch.long)
    for _ in range(LENGTH):
        logits = outputs(model, text[:, -CONTEXT:])[:, -1].detach()
        text = torch.cat([text, torch.multinomial(logits.softmax(dim=1), 1)], dim=1)
    return text


def pretrain(model: nn.Module, steps: int) -> None:
    """Teach the model to write like Python's manual."""
    manual = re.sub("[^a-z]+", " ", " ".join(topics.values()).lower())
    text = torch.tensor([LETTERS.index(letter) for letter in manual])
    optimizer = fastadam.torch.Adam(model.parameters(), lr=3e-3, max_grad_norm=1.0)
    for _ in range(steps):
        start = torch.randint(len(text) - LENGTH, (TEXTS, 1))
        loss = -log_probs(model, text[start + torch.arange(LENGTH + 1)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def spelled(texts: torch.Tensor) -> list[str]:
    """Return texts, (n, 1 + LENGTH), as strings without the first space."""
    return ["".join(LETTERS[i] for i in text) for text in texts[:, 1:].tolist()]
