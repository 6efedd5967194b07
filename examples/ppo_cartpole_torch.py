"""Solve CartPole-v1 with PPO in PyTorch, with fastadam as the optimizer.

The same method, constants and random numbers as in ``ppo_cartpole.py``, which is in plain NumPy:
proximal policy optimization with the clipped objective (PPO; Schulman et al. 2017,
arXiv:1707.06347) and generalized advantage estimation (GAE; Schulman et al. 2015,
arXiv:1506.02438). Here PyTorch computes the gradients. One optimizer updates both networks.

``--optimizer torch`` trains with PyTorch's own Adam instead, and ``--compare`` times them all. The
same seed and optimizer give the same returns. Two optimizers do not: fastadam and PyTorch compute
the same formula with other roundings, so their runs begin alike, and part after a few thousand steps,
once a last digit has changed an action. Both solve the task.

Needs fastadam, torch, gymnasium, matplotlib and tqdm. Run it with ``python ppo_cartpole_torch.py``.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import fastadam.torch

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

# fastadam clips within its step; torch's gradients are clipped before.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "fastadam": functools.partial(fastadam.torch.Adam, max_grad_norm=MAX_GRAD_NORM),
    "torch": torch.optim.Adam,
    "torch-fused": functools.partial(torch.optim.Adam, fused=True),
}

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


class Seconds(NamedTuple):
    """How long an update with a minibatch took, and clipping and the optimizer's step within it."""

    update: float
    step: float


class Run(NamedTuple):
    """What training gives: the return of every finished episode, and the time of every update."""

    returns: list[float]
    seconds: list[Seconds]


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


def ppo_loss(
    actor: nn.Module,
    critic: nn.Module,
    obs: torch.Tensor,
    actions: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Compute the PPO loss of a minibatch.

    Parameters
    ----------
    actor, critic : torch.nn.Module
        Give the logits of the actions, of shape (batch, 2), and the values, of shape (batch, 1).
    obs : tensor of shape (batch, 4)
    actions, old_log_probs : tensors of shape (batch,)
        The actions taken and their log-probabilities under the policy that took them.
    advantages, targets : tensors of shape (batch,)
        How much better than expected each action was, and what the critic should predict.

    Returns
    -------
    tensor of shape ()
        Clipped policy loss plus ``VALUE_COEF`` times the mean squared error of the critic.
    """
    log_probs = actor(obs).log_softmax(dim=1).gather(1, actions[:, None])[:, 0]
    ratio = torch.exp(log_probs - old_log_probs)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return VALUE_COEF * nn.functional.mse_loss(critic(obs)[:, 0], targets) - gain.mean()


def update_once(
    actor: nn.Module, critic: nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[torch.Tensor]
) -> Seconds:
    """Train on a minibatch, the tensors that `ppo_loss` takes, and return how long it took."""
    start = time.perf_counter()
    loss = ppo_loss(actor, critic, *batch)
    optimizer.zero_grad()
    loss.backward()
    before_step = time.perf_counter()
    if not isinstance(optimizer, fastadam.torch.Adam):
        nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], MAX_GRAD_NORM)
    optimizer.step()
    end = time.perf_counter()
    return Seconds(end - start, end - before_step)


def update(
    actor: nn.Module,
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    rollout: Sequence[NDArray[Any]],
) -> list[Seconds]:
    """Train on a rollout: what `ppo_loss` takes, as arrays, for all of its steps."""
    tensors = [torch.from_numpy(array) for array in rollout]
    n = len(rollout[0])
    seconds = []
    for _ in range(EPOCHS):
        # The few steps left over after the last whole minibatch are left out of this pass.
        for batch in rng.permutation(n)[: n // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
            rows = torch.from_numpy(batch)
            seconds.append(update_once(actor, critic, optimizer, [tensor[rows] for tensor in tensors]))
    return seconds


def train(seed: int = 0, total_steps: int = 100_000, optimizer: str = "fastadam", progress: bool = True) -> Run:
    """Train on CartPole-v1.

    Parameters
    ----------
    seed : int
        Decides the initial weights, the environments, the actions and the minibatches.
    total_steps : int
        Steps of all environments together, rounded up to whole rollouts.
    optimizer : str
        One of `OPTIMIZERS`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    returns : list of float
        The return of every finished training episode, in the order in which they finished.
    seconds : list of Seconds
        The time of every update with a minibatch.
    """
    rng = np.random.default_rng(seed)
    actor = mlp([4, 64, 64, 2], rng)
    critic = mlp([4, 64, 64, 1], rng)
    params = list(actor.parameters()) + list(critic.parameters())
    adam = OPTIMIZERS[optimizer](params, lr=LEARNING_RATE)

    env = gym.make_vec("CartPole-v1", num_envs=NUM_ENVS, vectorization_mode="vector_entry_point")
    shape = (ROLLOUT_STEPS, NUM_ENVS)
    obs = np.empty((ROLLOUT_STEPS + 1, NUM_ENVS, 4), np.float32)
    actions = np.empty(shape, np.int64)
    log_probs, rewards = (np.empty(shape, np.float32) for _ in range(2))
    terminated, truncated, usable = (np.empty(shape, bool) for _ in range(3))

    returns: list[float] = []
    seconds: list[Seconds] = []
    episode_return = np.zeros(NUM_ENVS)
    done = np.zeros(NUM_ENVS, bool)
    obs[-1], _ = env.reset(seed=seed)
    n_updates = -(-total_steps // actions.size)
    with tqdm(total=n_updates * actions.size, unit=" steps", disable=not progress) as bar:
        for i in range(n_updates):
            adam.param_groups[0]["lr"] = LEARNING_RATE * (1 - i / n_updates)
            obs[0] = obs[-1]
            for t in range(ROLLOUT_STEPS):
                with torch.no_grad():
                    all_log_probs = actor(torch.from_numpy(obs[t])).log_softmax(dim=1).numpy()
                # Adding Gumbel noise and taking the maximum samples from the probabilities.
                actions[t] = np.argmax(all_log_probs + rng.gumbel(size=all_log_probs.shape), axis=1)
                log_probs[t] = all_log_probs[np.arange(NUM_ENVS), actions[t]]
                # After the end of an episode, the environment ignores the action and resets.
                usable[t] = ~done
                obs[t + 1], rewards[t], terminated[t], truncated[t], _ = env.step(actions[t])
                done = terminated[t] | truncated[t]
                episode_return += rewards[t]
                returns += episode_return[done].tolist()
                episode_return[done] = 0

            with torch.no_grad():
                values = critic(torch.from_numpy(obs))[:, :, 0].numpy()
            advantages = gae(rewards, values, terminated, truncated)
            targets = advantages + values[:-1]
            mean, std = advantages[usable].mean(), advantages[usable].std()
            advantages = (advantages - mean) / (std + 1e-8)
            rollout = (obs[:-1], actions, log_probs, advantages, targets)
            seconds += update(actor, critic, adam, rng, [array[usable] for array in rollout])
            bar.update(actions.size)
            bar.set_postfix_str(f"mean return {np.mean(returns[-WINDOW:]):.0f}")
    env.close()
    return Run(returns, seconds)


def compare(seed: int = 0, rounds: int = 300, updates: int = 5) -> dict[str, list[Seconds]]:
    """Time updates with every optimizer in turns.

    In each round every optimizer gets its turn, in random order, so that whatever else the machine
    does hits all of them. All start from the same weights and train on the same minibatches.

    Parameters
    ----------
    seed : int
        Decides the weights, the minibatches and the order of the turns.
    rounds : int
        How many turns each optimizer gets.
    updates : int
        How many updates are timed in a turn.

    Returns
    -------
    dict of lists of Seconds
        For each of `OPTIMIZERS`, the mean time of an update in each round.
    """
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(updates):
        obs, actions = rng.standard_normal((BATCH_SIZE, 4)), rng.integers(2, size=BATCH_SIZE)
        floats = [np.full(BATCH_SIZE, -np.log(2)), *rng.standard_normal((2, BATCH_SIZE))]
        tensors = [torch.tensor(array, dtype=torch.float32) for array in (obs, *floats)]
        batches.append([tensors[0], torch.from_numpy(actions), *tensors[1:]])

    turns: dict[str, Callable[[Sequence[torch.Tensor]], Seconds]] = {}
    for name, make in OPTIMIZERS.items():
        weights = np.random.default_rng(seed)
        actor, critic = mlp([4, 64, 64, 2], weights), mlp([4, 64, 64, 1], weights)
        params = list(actor.parameters()) + list(critic.parameters())
        # So slow a rate leaves the gradients as they are. After thousands of real steps on the same
        # few minibatches most would be zero, and the time of an update would be another one.
        turns[name] = functools.partial(update_once, actor, critic, make(params, lr=1e-6 * LEARNING_RATE))
        turns[name](batches[0])  # creates the optimizer's state

    seconds: dict[str, list[Seconds]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name in rng.permutation(list(turns)).tolist():
            turns[name](batches[-1])  # not timed: brings this optimizer's data back into the cache
            timed = [turns[name](batch) for batch in batches]
            seconds[name].append(Seconds(*(statistics.mean(column) for column in zip(*timed, strict=True))))
    return seconds


def speed_table(seconds: dict[str, list[Seconds]]) -> str:
    """Format what `compare` returns: median times, and medians over rounds of ratios within a round."""
    columns = "".join(f"{head:>10}" for head in ("us", "x torch", "x fused"))
    lines = [f"{'':12}{'whole update':>30}{'clip and step alone':>30}", f"{'optimizer':12}{columns}{columns}"]
    for name, own in seconds.items():
        line = f"{name:12}"
        for field in Seconds._fields:
            times = [getattr(one, field) for one in own]
            line += f"{statistics.median(times) * 1e6:10.1f}"
            for base in ("torch", "torch-fused"):
                others = [getattr(one, field) for one in seconds[base]]
                line += f"{statistics.median(b / t for b, t in zip(others, times, strict=True)):10.2f}"
        lines.append(line)
    lines.append("x torch, x fused: how many times as fast as torch and torch-fused")
    return "\n".join(lines)


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
    ax.set(xlabel="episode", ylabel="return", title="PPO on CartPole-v1, in PyTorch")
    ax.set_ylim(0, 520)  # an episode earns at most 500
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train with the options of the command line, report the result and plot it; or compare speeds."""
    parser = argparse.ArgumentParser(
        description="Solve CartPole-v1 with PPO, PyTorch and fastadam.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps in all")
    parser.add_argument("--plot", type=Path, default="ppo_cartpole_torch.png", help="image to write")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="fastadam", help="which Adam to train with")
    # Sharing out layers this small among threads gains nothing, and costs much where cores are busy.
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch; one suits small networks")
    parser.add_argument("--compare", action="store_true", help="train nothing, but time all optimizers in turns")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args()
    for name in ("steps", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.seed < 0:
        parser.error("--seed must be at least 0")
    torch.set_num_threads(args.threads)

    if args.compare:
        print(speed_table(compare(args.seed)))
        return
    start = time.perf_counter()
    returns, seconds = train(args.seed, args.steps, args.optimizer, progress=not args.quiet)
    wall = time.perf_counter() - start
    plot(returns, args.plot)
    whole, step = (statistics.mean(column) for column in zip(*seconds, strict=True))
    print(f"Updates with {args.optimizer}: {whole * 1e6:.0f} us each, {step / whole:.0%} of it in optimizer.step")
    print(f"Mean return over the last {WINDOW} episodes: {np.mean(returns[-WINDOW:]):.1f} ({wall:.1f} s)")


if __name__ == "__main__":
    main()
