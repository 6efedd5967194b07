"""Solve CartPole-v1 with PPO in PyTorch, with fastadam as the optimizer.

The same method, constants and random numbers as in ``ppo_cartpole.py``, which is in plain NumPy: proximal policy
optimization with the clipped objective (PPO; Schulman et al. 2017, arXiv:1707.06347). Here PyTorch computes the
gradients. One optimizer updates both networks. ``_cartpole.py`` plays the episodes.

``--optimizer torch`` trains with PyTorch's own Adam instead. The same seed and optimizer give the same returns.
Two optimizers do not: fastadam and PyTorch compute the same formula with other roundings, so their runs begin
alike, and part after a few thousand steps, once a last digit has changed an action. Both solve the task.

Needs fastadam, torch, gymnasium, matplotlib and tqdm. Run it with ``python examples/ppo_cartpole_torch.py``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from _cartpole import WINDOW, CartPole, Floats, Rollout, plot
from _options import make_parser, positive
from torch import nn

import fastadam.torch

EPOCHS = 4  # passes over each rollout
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # at the start; falls linearly to zero
CLIP = 0.2
VALUE_COEF = 0.5
MAX_GRAD_NORM = 0.5  # of both networks together

# fastadam clips within its step; torch's gradients are clipped before.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "fastadam": functools.partial(fastadam.torch.Adam, max_grad_norm=MAX_GRAD_NORM),
    "torch": torch.optim.Adam,
}


def mlp(sizes: Sequence[int], rng: np.random.Generator) -> nn.Sequential:
    """Make a fully connected network with layers of the given sizes and tanh between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layer = nn.Linear(n_in, n_out)
        weight = rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def ppo_loss(actor: nn.Module, critic: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the PPO loss of a batch, which has the fields of `Rollout` as tensors.

    The loss is the clipped policy loss plus ``VALUE_COEF`` times the mean squared error of the critic.
    """
    obs, actions, old_log_probs, advantages, targets = batch
    log_probs = actor(obs).log_softmax(dim=1).gather(1, actions[:, None])[:, 0]
    ratio = torch.exp(log_probs - old_log_probs)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return VALUE_COEF * nn.functional.mse_loss(critic(obs)[:, 0], targets) - gain.mean()


def update_once(
    actor: nn.Module, critic: nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[torch.Tensor]
) -> None:
    """Train on a minibatch."""
    loss = ppo_loss(actor, critic, batch)
    optimizer.zero_grad()
    loss.backward()
    if not isinstance(optimizer, fastadam.torch.Adam):
        nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], MAX_GRAD_NORM)
    optimizer.step()


def update(
    actor: nn.Module,
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    rollout: Rollout,
) -> None:
    """Train on a rollout, in minibatches."""
    tensors = [torch.from_numpy(array) for array in rollout]
    n = len(rollout.obs)
    for _ in range(EPOCHS):
        # The few steps left over after the last whole minibatch are left out of this pass.
        for rows in rng.permutation(n)[: n // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
            batch = torch.from_numpy(rows)
            update_once(actor, critic, optimizer, [tensor[batch] for tensor in tensors])


def train(
    seed: int = 0, total_steps: int = 100_000, optimizer: str = "fastadam", progress: bool = True
) -> list[float]:
    """Train with one of `OPTIMIZERS`, and return the return of every finished episode.

    The seed decides the initial weights, the environments, the actions and the minibatches.
    """
    rng = np.random.default_rng(seed)
    actor, critic = mlp([4, 64, 64, 2], rng), mlp([4, 64, 64, 1], rng)
    adam = OPTIMIZERS[optimizer](list(actor.parameters()) + list(critic.parameters()), lr=LEARNING_RATE)
    cartpole = CartPole(rng, seed)

    def policy(obs: Floats) -> Any:
        return actor(torch.from_numpy(obs)).log_softmax(dim=1).detach().numpy()

    def values(obs: Floats) -> Any:
        return critic(torch.from_numpy(obs)).detach().numpy()

    for left, rollout in cartpole.rollouts(total_steps, policy, values, progress):
        adam.param_groups[0]["lr"] = LEARNING_RATE * left
        update(actor, critic, adam, rng, rollout)
    return cartpole.returns


def main() -> None:
    """Train with the options of the command line, report the result and plot it."""
    parser = make_parser("Solve CartPole-v1 with PPO, PyTorch and fastadam.", "ppo_cartpole_torch.png")
    parser.add_argument("--steps", type=positive, default=100_000, help="environment steps in all")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="fastadam", help="which Adam to train with")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sharing out layers this small among threads gains nothing

    start = time.perf_counter()
    returns = train(args.seed, args.steps, args.optimizer, progress=not args.quiet)
    seconds = time.perf_counter() - start
    plot(returns, args.plot)
    print(f"Mean return over the last {WINDOW} episodes: {np.mean(returns[-WINDOW:]):.1f} ({seconds:.1f} s)")


if __name__ == "__main__":
    main()
