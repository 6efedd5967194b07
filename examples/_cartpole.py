"""CartPole for the two PPO examples: episodes played by a policy, advantages, and the learning curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from _style import BLUE, ORANGE, new_figure, save
from numpy.typing import NDArray
from tqdm import tqdm

NUM_ENVS = 8
ROLLOUT_STEPS = 128  # per environment, between two rounds of updates
DISCOUNT = 0.99
GAE_LAMBDA = 0.95
WINDOW = 20  # episodes in the reported mean

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Network = Callable[[Floats], Floats]


class Rollout(NamedTuple):
    """What PPO learns from: a row for each usable step of a rollout.

    Attributes
    ----------
    obs : array of shape (n, 4)
    actions, log_probs : arrays of shape (n,)
        The actions taken and their log-probabilities under the policy that took them.
    advantages, targets : arrays of shape (n,)
        How much better than expected each action was, and what the critic should predict.
    """

    obs: Floats
    actions: Ints
    log_probs: Floats
    advantages: Floats
    targets: Floats

    def rows(self, index: NDArray[np.integer] | Bools) -> Rollout:
        """Return some of the rows."""
        obs, actions, log_probs, advantages, targets = self
        return Rollout(obs[index], actions[index], log_probs[index], advantages[index], targets[index])


def gae(rewards: Floats, values: Floats, terminated: Bools, truncated: Bools) -> Floats:
    """Estimate advantages with generalized advantage estimation (Schulman et al. 2015, arXiv:1506.02438).

    The environments reset one step after an episode ends, so ``values[t + 1]`` always belongs to the observation
    that step ``t`` led to, even when step ``t`` ended the episode. A terminated episode earns nothing more. A
    truncated one would have gone on, so its last step still counts the critic's value of what follows.

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


class CartPole:
    """Several environments side by side; `returns` has the return of every finished episode."""

    def __init__(self, rng: np.random.Generator, seed: int) -> None:
        self.rng = rng
        self.env = gym.make_vec("CartPole-v1", num_envs=NUM_ENVS, vectorization_mode="vector_entry_point")
        self.obs, _ = self.env.reset(seed=seed)
        self.done = np.zeros(NUM_ENVS, bool)
        self.episode_return = np.zeros(NUM_ENVS)
        self.returns: list[float] = []

    def rollouts(
        self, total_steps: int, policy: Network, critic: Network, progress: bool
    ) -> Iterator[tuple[float, Rollout]]:
        """Play at least so many steps; yield the share of them that is left, and a rollout of the next."""
        steps = NUM_ENVS * ROLLOUT_STEPS
        n = -(-total_steps // steps)
        with tqdm(total=n * steps, unit=" steps", disable=not progress) as bar:
            for i in range(n):
                yield 1 - i / n, self.play(policy, critic)
                bar.update(steps)
                bar.set_postfix_str(f"mean return {np.mean(self.returns[-WINDOW:]):.0f}")
        self.env.close()

    def play(self, policy: Network, critic: Network) -> Rollout:
        """Play `ROLLOUT_STEPS` steps.

        The policy turns observations, (envs, 4), into log-probabilities of the actions, (envs, 2), the critic
        observations, (n, 4), into values, (n, 1).
        """
        shape = (ROLLOUT_STEPS, NUM_ENVS)
        obs = np.empty((ROLLOUT_STEPS + 1, NUM_ENVS, 4), np.float32)
        actions = np.empty(shape, np.int64)
        log_probs, rewards = np.empty((2, *shape), np.float32)
        terminated, truncated, usable = np.empty((3, *shape), bool)
        obs[0] = self.obs
        for t in range(ROLLOUT_STEPS):
            all_log_probs = policy(obs[t])
            # Adding Gumbel noise and taking the maximum samples from the probabilities.
            actions[t] = np.argmax(all_log_probs + self.rng.gumbel(size=all_log_probs.shape), axis=1)
            log_probs[t] = all_log_probs[np.arange(NUM_ENVS), actions[t]]
            # After the end of an episode, the environment ignores the action and resets.
            usable[t] = ~self.done
            obs[t + 1], rewards[t], terminated[t], truncated[t], _ = self.env.step(actions[t])
            self.done = terminated[t] | truncated[t]
            self.episode_return += rewards[t]
            self.returns += self.episode_return[self.done].tolist()
            self.episode_return[self.done] = 0
        self.obs = obs[-1]

        values = critic(obs.reshape(-1, 4)).reshape(-1, NUM_ENVS)
        advantages = gae(rewards, values, terminated, truncated)
        targets = advantages + values[:-1]
        advantages = (advantages - advantages[usable].mean()) / (advantages[usable].std() + 1e-8)
        return Rollout(obs[:-1], actions, log_probs, advantages, targets).rows(usable)


def plot(returns: Sequence[float], path: Path) -> None:
    """Write the learning curve, from the return of each episode, to an image file."""
    episodes = np.arange(1, len(returns) + 1)
    figure = new_figure(3.8)
    ax = figure.subplots()
    ax.plot(episodes, returns, ".", color=BLUE, alpha=0.4, label="one episode")
    if len(returns) >= WINDOW:
        means = np.convolve(returns, np.ones(WINDOW) / WINDOW, "valid")
        ax.plot(episodes[WINDOW - 1 :], means, color=ORANGE, label=f"mean of the last {WINDOW}")
    ax.set(xlabel="episode", ylabel="return", title="PPO on CartPole-v1", ylim=(0, 520))  # at most 500
    ax.legend(loc="lower right")
    save(figure, path)
