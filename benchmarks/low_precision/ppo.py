"""PPO on CartPole, as examples/ppo_cartpole.py has it: two networks of 64 by 64, gradients by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.low_precision.settings import SETTINGS as SETTINGS
from benchmarks.low_precision.settings import Run, Setting, Trainee

TITLE = "PPO on CartPole: return"
POINTS = 25  # of a curve
STEPS = 100_000  # of the environments


def train(setting: Setting, seed: int, steps: int = STEPS) -> Run:
    """Return the mean return of the episodes that end in the last fifth of the training, and before."""
    import ppo_cartpole as example
    from _cartpole import CartPole

    rng = np.random.default_rng(seed)
    actor, critic = example.MLP([4, 64, 64, 2], rng), example.MLP([4, 64, 64, 1], rng)
    trainee: Any = Trainee(
        [*actor.parameters(), *critic.parameters()],
        setting,
        lr=example.LEARNING_RATE,
        max_grad_norm=example.MAX_GRAD_NORM,
        seed=seed,
    )
    cartpole = CartPole(rng, seed)

    def policy(obs: Any) -> Any:
        return example.log_softmax(actor.forward(obs))

    ends = []  # how many episodes have ended before each rollout
    for left, rollout in cartpole.rollouts(steps, policy, critic.forward, progress=False):
        ends.append(len(cartpole.returns))
        trainee.lr = example.LEARNING_RATE * left
        example.update(actor, critic, trainee, rng, rollout)
    # A training that was broken off by numbers that are not finite still has episodes.
    borders = np.linspace(0, len(ends), POINTS + 1).round().astype(int)
    counts = [0, *ends]
    curve: list[float] = []
    for low, high in pairwise(borders):
        returns = cartpole.returns[counts[low] : counts[high]]
        curve.append(float(np.mean(returns)) if returns else (curve or [0.0])[-1])
    return Run(float(np.mean(cartpole.returns[counts[borders[POINTS * 4 // 5]] :])), curve)
