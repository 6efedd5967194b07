"""Whole updates of PPO in PyTorch: zero_grad, forward, backward and step, with a minibatch of 64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import fastadam

BATCH = 64


def ppo_update(make: Callable[..., Any]) -> Callable[[], None]:
    """Return the function that makes one update of a fresh actor and critic with the optimizer `make`."""
    import torch
    from torch import nn

    def mlp(*sizes: int) -> Any:
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
        return nn.Sequential(*layers[:-1])

    torch.manual_seed(0)
    actor, critic = mlp(4, 64, 64, 2), mlp(4, 64, 64, 1)
    # At so small a rate, thousands of updates leave the gradients, and so the work, as they are.
    optimizer = make(list(actor.parameters()) + list(critic.parameters()), lr=1e-9)
    obs, actions = torch.randn(BATCH, 4), torch.randint(2, (BATCH, 1))
    old_log_probs, advantages, targets = torch.full((BATCH,), -0.7), torch.randn(BATCH), torch.randn(BATCH)

    def update() -> None:
        optimizer.zero_grad()
        log_probs = actor(obs).log_softmax(dim=1).gather(1, actions)[:, 0]
        ratio = torch.exp(log_probs - old_log_probs)
        gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        loss = nn.functional.mse_loss(critic(obs)[:, 0], targets) - gain
        loss.backward()
        optimizer.step()

    return update


def torch_update(**options: bool) -> Callable[[], None]:
    """Return an update with torch's own Adam."""
    import torch

    return ppo_update(functools.partial(torch.optim.Adam, **options))


def face_update(backend: fastadam.Backend) -> Callable[[], None]:
    """Return an update with fastadam.torch on a backend."""
    import fastadam.torch

    def make(params: list[Any], lr: float) -> Any:
        optimizer = fastadam.torch.Adam(params, lr=lr)
        optimizer.backend = backend
        return optimizer

    return ppo_update(make)


def contenders(backends: Sequence[fastadam.Backend]) -> dict[str, Callable[[], None]]:
    """Return an update for each optimizer, by name."""
    found = {"torch fused": torch_update(fused=True), "torch": torch_update()}
    return found | {f"torch face {backend}": face_update(backend) for backend in backends}
