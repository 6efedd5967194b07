"""Solve CartPole-v1 with PPO in plain NumPy, with fastadam as the optimizer.

The method is proximal policy optimization with the clipped objective (PPO; Schulman et al. 2017,
arXiv:1707.06347) and generalized advantage estimation (GAE; Schulman et al. 2015,
arXiv:1506.02438). The gradients are written by hand. One optimizer updates both networks.

Needs fastadam, gymnasium, matplotlib and tqdm. Run it with ``python ppo_cartpole.py``.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import DTypeLike, NDArray
from tqdm import tqdm

import fastadam

NUM_ENVS = 8
ROLLOUT_STEPS = 128  # per environment, between two rounds of updates
EPOCHS = 4  # passes over each rollout
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # at the start; falls linearly to zero
DISCOUNT = 0.99
GAE_LAMBDA = 0.95
CLIP = 0.2
VALUE_COEF = 0.5
MAX_GRAD_NORM = 0.5  # of both networks together
WINDOW = 20  # episodes in the reported mean

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer]


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


def gae(rewards: Floats, values: Floats, terminated: Bools, truncated: Bools) -> Floats:
    """Estimate advantages with GAE.

    The environments reset one step after an episode ends, so ``values[t + 1]`` always belongs to
    the observation that step ``t`` led to, even when step ``t`` ended the episode. A terminated
    episode earns nothing more. A truncated one would have gone on, so its last step still counts
    the critic's value of what follows.

    Parameters
    ----------
    rewards : array of shape (steps, envs)
    values : array of shape (steps + 1, envs)
        The critic's value of each observation, including the one after the last step.
    terminated, truncated : bool arrays of shape (steps, envs)
        Whether the step ended the episode by failure or by the time limit.

    Returns
    -------
    array of shape (steps, envs)
        Advantages. Those of the reset steps are meaningless.
    """
    deltas = rewards + DISCOUNT * np.where(terminated, 0, values[1:]) - values[:-1]
    done = terminated | truncated
    advantages = np.empty_like(deltas)
    running = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        running = deltas[t] + DISCOUNT * GAE_LAMBDA * np.where(done[t], 0, running)
        advantages[t] = running
    return advantages


def ppo_loss_and_grads(
    actor: MLP,
    critic: MLP,
    obs: Floats,
    actions: Ints,
    old_log_probs: Floats,
    advantages: Floats,
    targets: Floats,
) -> tuple[float, list[Floats], list[Floats]]:
    """Compute the PPO loss of a minibatch and its gradients.

    Parameters
    ----------
    actor, critic : MLP
        Give the logits of the actions, of shape (batch, 2), and the values, of shape (batch, 1).
    obs : array of shape (batch, 4)
    actions, old_log_probs : arrays of shape (batch,)
        The actions taken and their log-probabilities under the policy that took them.
    advantages, targets : arrays of shape (batch,)
        How much better than expected each action was, and what the critic should predict.

    Returns
    -------
    loss : float
        Clipped policy loss plus ``VALUE_COEF`` times the mean squared error of the critic.
    actor_grads, critic_grads : lists of arrays
        Gradients of the loss, in the order of each network's parameters.
    """
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


def update(
    actor: MLP,
    critic: MLP,
    optimizer: fastadam.Adam,
    rng: np.random.Generator,
    rollout: Sequence[NDArray[Any]],
) -> None:
    """Train on a rollout: the arrays that `ppo_loss_and_grads` takes, for all of its steps."""
    n = len(rollout[0])
    for _ in range(EPOCHS):
        # The few steps left over after the last whole minibatch are left out of this pass.
        for batch in rng.permutation(n)[: n // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
            _, actor_grads, critic_grads = ppo_loss_and_grads(actor, critic, *(array[batch] for array in rollout))
            optimizer.step(actor_grads + critic_grads)


def train(
    seed: int = 0, total_steps: int = 100_000, backend: fastadam.Backend = "auto", progress: bool = True
) -> list[float]:
    """Train on CartPole-v1.

    Parameters
    ----------
    seed : int
        Decides the initial weights, the environments, the actions and the minibatches.
    total_steps : int
        Steps of all environments together, rounded up to whole rollouts.
    backend : str
        The backend of the optimizer.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of float
        The return of every finished training episode, in the order in which they finished.
    """
    rng = np.random.default_rng(seed)
    actor = MLP([4, 64, 64, 2], rng)
    critic = MLP([4, 64, 64, 1], rng)
    params = list(actor.parameters()) + list(critic.parameters())
    optimizer = fastadam.Adam(params, lr=LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM, backend=backend)

    env = gym.make_vec("CartPole-v1", num_envs=NUM_ENVS, vectorization_mode="vector_entry_point")
    shape = (ROLLOUT_STEPS, NUM_ENVS)
    obs = np.empty((ROLLOUT_STEPS + 1, NUM_ENVS, 4), np.float32)
    actions = np.empty(shape, np.int64)
    log_probs, rewards = (np.empty(shape, np.float32) for _ in range(2))
    terminated, truncated, usable = (np.empty(shape, bool) for _ in range(3))

    returns: list[float] = []
    episode_return = np.zeros(NUM_ENVS)
    done = np.zeros(NUM_ENVS, bool)
    obs[-1], _ = env.reset(seed=seed)
    n_updates = -(-total_steps // actions.size)
    with tqdm(total=n_updates * actions.size, unit=" steps", disable=not progress) as bar:
        for i in range(n_updates):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - i / n_updates)
            obs[0] = obs[-1]
            for t in range(ROLLOUT_STEPS):
                logits = actor.forward(obs[t])
                # Adding Gumbel noise and taking the maximum samples from the softmax.
                actions[t] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
                log_probs[t] = log_softmax(logits)[np.arange(NUM_ENVS), actions[t]]
                # After the end of an episode, the environment ignores the action and resets.
                usable[t] = ~done
                obs[t + 1], rewards[t], terminated[t], truncated[t], _ = env.step(actions[t])
                done = terminated[t] | truncated[t]
                episode_return += rewards[t]
                returns += episode_return[done].tolist()
                episode_return[done] = 0

            values = critic.forward(obs.reshape(-1, 4)).reshape(-1, NUM_ENVS)
            advantages = gae(rewards, values, terminated, truncated)
            targets = advantages + values[:-1]
            mean, std = advantages[usable].mean(), advantages[usable].std()
            advantages = (advantages - mean) / (std + 1e-8)
            rollout = (obs[:-1], actions, log_probs, advantages, targets)
            update(actor, critic, optimizer, rng, [array[usable] for array in rollout])
            bar.update(actions.size)
            bar.set_postfix_str(f"mean return {np.mean(returns[-WINDOW:]):.0f}")
    env.close()
    return returns


def plot(returns: Sequence[float], path: Path) -> None:
    """Write the learning curve, from the return of each episode, to an image file."""
    episodes = np.arange(1, len(returns) + 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    ax.plot(episodes, returns, ".", color="tab:blue", alpha=0.4, label="one episode")
    if len(returns) >= WINDOW:
        means = np.convolve(returns, np.ones(WINDOW) / WINDOW, "valid")
        label = f"mean of the last {WINDOW}"
        ax.plot(episodes[WINDOW - 1 :], means, color="tab:orange", lw=2, label=label)
    ax.set(xlabel="episode", ylabel="return", title="PPO on CartPole-v1")
    ax.set_ylim(0, 520)  # an episode earns at most 500
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train with the options of the command line, report the result and plot it."""
    parser = argparse.ArgumentParser(
        description="Solve CartPole-v1 with PPO and fastadam.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps in all")
    parser.add_argument("--plot", type=Path, default="ppo_cartpole.png", help="image to write")
    parser.add_argument("--backend", default="auto", help="backend of fastadam.Adam")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be at least 1")

    start = time.perf_counter()
    returns = train(args.seed, args.steps, args.backend, progress=not args.quiet)
    seconds = time.perf_counter() - start
    plot(returns, args.plot)
    mean = np.mean(returns[-WINDOW:])
    print(f"Mean return over the last {WINDOW} episodes: {mean:.1f} ({seconds:.1f} s)")


if __name__ == "__main__":
    main()
