"""Solve CartPole-v1 with PPO in plain NumPy, with fastadam as the optimizer.

The method is proximal policy optimization with the clipped objective (PPO; Schulman et al. 2017,
arXiv:1707.06347). The gradients are written by hand. One optimizer updates both networks: the actor, which
chooses the actions, and the critic, which says how much they will earn. ``_cartpole.py`` plays the episodes.

Needs fastadam, gymnasium, matplotlib and tqdm. Run it with ``python examples/ppo_cartpole.py``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from _cartpole import WINDOW, CartPole, Floats, Rollout, plot
from _options import make_parser, positive
from numpy.typing import DTypeLike

import fastadam

EPOCHS = 4  # passes over each rollout
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # at the start; falls linearly to zero
CLIP = 0.2
VALUE_COEF = 0.5
MAX_GRAD_NORM = 0.5  # of both networks together


class MLP:
    """A fully connected network with layers of the given sizes and tanh between them."""

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> None:
        self.layers: list[tuple[Floats, Floats]] = []
        for n_in, n_out in pairwise(sizes):
            weight = rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)
            self.layers.append((weight.astype(dtype), np.zeros(n_out, dtype)))
        self.inputs: list[Floats] = []  # of each layer, kept by forward for backward

    def parameters(self) -> list[Floats]:
        """Return the weights and biases, layer by layer (the arrays themselves, no copies)."""
        return [param for layer in self.layers for param in layer]

    def forward(self, x: Floats) -> Floats:
        """Map inputs of shape (batch, n_in) to outputs of shape (batch, n_out)."""
        self.inputs = []
        for i, (weight, bias) in enumerate(self.layers):
            x = np.tanh(x) if i > 0 else x
            self.inputs.append(x)
            x = x @ weight + bias
        return x

    def backward(self, grad: Floats) -> list[Floats]:
        """Turn the gradient of the latest output, (batch, n_out), into those of `parameters`."""
        grads: list[Floats] = []
        for x, (weight, _) in zip(reversed(self.inputs), reversed(self.layers), strict=True):
            grads = [x.T @ grad, grad.sum(axis=0), *grads]
            # x = tanh(z), so dx/dz = 1 - x^2. (Before the first layer, the result is not used.)
            grad = (grad @ weight.T) * (1 - x * x)
        return grads


def log_softmax(logits: Floats) -> Floats:
    """Return log-probabilities for logits, both of shape (batch, actions)."""
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_probs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probs


def ppo_loss_and_grads(actor: MLP, critic: MLP, batch: Rollout) -> tuple[float, list[Floats], list[Floats]]:
    """Return the PPO loss of a batch, and its gradients by the parameters of the actor and of the critic.

    The loss is the clipped policy loss plus ``VALUE_COEF`` times the mean squared error of the critic.
    """
    obs, actions, old_log_probs, advantages, targets = batch
    rows = np.arange(len(obs))
    log_probs = log_softmax(actor.forward(obs))
    ratio = np.exp(log_probs[rows, actions] - old_log_probs)
    gain = ratio * advantages
    clipped_gain = np.clip(ratio, 1 - CLIP, 1 + CLIP) * advantages
    errors = critic.forward(obs)[:, 0] - targets
    loss = np.mean(VALUE_COEF * errors**2 - np.minimum(gain, clipped_gain))

    # Where the clipped gain is the smaller one, it is a constant and has no gradient. Elsewhere
    # d gain / d log_prob = gain, and d log_prob[action] / d logits = onehot(action) - probs.
    slope = np.where(gain <= clipped_gain, gain, 0) / len(obs)
    logit_grads = slope[:, None] * np.exp(log_probs)
    logit_grads[rows, actions] -= slope
    value_grads = 2 * VALUE_COEF / len(obs) * errors[:, None]
    return float(loss), actor.backward(logit_grads), critic.backward(value_grads)


def update(actor: MLP, critic: MLP, optimizer: fastadam.Adam, rng: np.random.Generator, rollout: Rollout) -> None:
    """Train on a rollout, in minibatches."""
    n = len(rollout.obs)
    for _ in range(EPOCHS):
        # The few steps left over after the last whole minibatch are left out of this pass.
        for rows in rng.permutation(n)[: n // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
            _, actor_grads, critic_grads = ppo_loss_and_grads(actor, critic, rollout.rows(rows))
            optimizer.step(actor_grads + critic_grads)


def train(
    seed: int = 0, total_steps: int = 100_000, backend: fastadam.Backend = "auto", progress: bool = True
) -> list[float]:
    """Train on CartPole-v1, and return the return of every finished episode.

    The seed decides the initial weights, the environments, the actions and the minibatches.
    """
    rng = np.random.default_rng(seed)
    actor, critic = MLP([4, 64, 64, 2], rng), MLP([4, 64, 64, 1], rng)
    params = list(actor.parameters()) + list(critic.parameters())
    optimizer = fastadam.Adam(params, lr=LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM, backend=backend)
    cartpole = CartPole(rng, seed)

    def policy(obs: Floats) -> Floats:
        return log_softmax(actor.forward(obs))

    for left, rollout in cartpole.rollouts(total_steps, policy, critic.forward, progress):
        optimizer.lr = LEARNING_RATE * left
        update(actor, critic, optimizer, rng, rollout)
    return cartpole.returns


def main() -> None:
    """Train with the options of the command line, report the result and plot it."""
    parser = make_parser("Solve CartPole-v1 with PPO and fastadam.", "ppo_cartpole.png")
    parser.add_argument("--steps", type=positive, default=100_000, help="environment steps in all")
    parser.add_argument("--backend", default="auto", help="backend of fastadam.Adam")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args()
    start = time.perf_counter()
    returns = train(args.seed, args.steps, args.backend, progress=not args.quiet)
    seconds = time.perf_counter() - start
    plot(returns, args.plot)
    print(f"Mean return over the last {WINDOW} episodes: {np.mean(returns[-WINDOW:]):.1f} ({seconds:.1f} s)")


if __name__ == "__main__":
    main()
