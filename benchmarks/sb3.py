"""How much faster stable-baselines3's PPO trains on CartPole, unedited, under `fastadam.torch.patched`.

``python -m benchmarks.sb3`` (with torch and the extra ``test-libraries``) times ``PPO.train()`` for four
contenders: torch's default Adam, its fused one, both with torch's clipping, what stands in their places under the
patch, and nothing at all in those places, which says how fast any optimizer could let it become. All train on the
same data from the same weights, in turns, in random order and in one process; the figures are medians over rounds
of the ratio within a round. ``--check`` ends with exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
import warnings
from typing import Any
from unittest import mock

import numpy as np
import torch

import fastadam.torch

BARS = {"torch default": 1.5, "torch fused": 1.25}  # their time over ours
ROUNDS = 40
STEPS = 256  # of the environment before each `train`, a quarter of a second or less, so that turns are short


def make(options: dict[str, Any]) -> Any:
    """Return a PPO that has gathered its first data."""
    from stable_baselines3 import PPO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=STEPS, seed=0, device="cpu", policy_kwargs=options)
        ppo.learn(STEPS)  # trains once, too
    return ppo


class NoStep(torch.optim.Adam):  # type: ignore[misc]
    """An optimizer that leaves everything as it is."""

    def step(self, closure: Any = None) -> None:
        """Do nothing."""


def contenders() -> dict[str, tuple[Any, Any]]:
    """Return each PPO, and the context in which it trains."""
    ours = fastadam.torch.patched()
    plain = contextlib.nullcontext()
    no_clipping = mock.patch("torch.nn.utils.clip_grad_norm_", return_value=None)
    with ours:
        # What the library takes for its default where it is imported here.
        patched = make({"optimizer_class": torch.optim.Adam})
    return {
        "fastadam": (patched, ours),
        "torch default": (make({}), plain),
        "torch fused": (make({"optimizer_kwargs": {"fused": True, "eps": 1e-5}}), plain),
        "no optimizer": (make({"optimizer_class": NoStep}), no_clipping),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of one `train` of each contender in each round."""
    chosen = contenders()
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    starts = {name: ppo.policy.state_dict() for name, (ppo, _) in chosen.items()}
    start = {key: value.clone() for key, value in starts["torch default"].items()}
    data = chosen["torch default"][0].rollout_buffer
    for ppo, _ in chosen.values():
        ppo.rollout_buffer = data
    for _ in range(rounds):
        for name in rng.permutation(list(chosen)).tolist():
            ppo, context = chosen[name]
            ppo.policy.load_state_dict(start)
            np.random.seed(0)  # noqa: NPY002 - the library's own generator, for the order of minibatches
            with context:
                began = time.perf_counter()
                ppo.train()
                times[name].append(time.perf_counter() - began)
    return times


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sb3", description=__doc__)
    parser.add_argument("--check", action="store_true", help="end with exit code 1 if a bar is missed")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1, help="torch's, default 1: more do not help here")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    times = measure(chosen.rounds)
    missed = False
    print(f"PPO.train() on CartPole, {chosen.rounds} rounds, {chosen.threads} threads")
    for name, seconds in times.items():
        line = f"  {name:14} {1e3 * statistics.median(seconds):7.1f} ms (least {1e3 * min(seconds):.1f})"
        if name in BARS:
            ratio, most = (
                statistics.median(a / b for a, b in zip(seconds, times[base], strict=True))
                for base in ("fastadam", "no optimizer")
            )
            missed |= ratio < BARS[name]
            line += f"  {ratio:.2f} times ours, bar {BARS[name]}{'  MISSED' if ratio < BARS[name] else ''}"
            line += f" ({most:.2f} times that with no optimizer)"
        print(line)
    return int(missed and chosen.check)


if __name__ == "__main__":
    sys.exit(main())
