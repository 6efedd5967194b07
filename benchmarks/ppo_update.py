"""The optimizer's share of an update of PPO in PyTorch: ours, torch's default Adam and torch's fused one.

``python -m benchmarks.ppo_update`` (with torch) trains an actor and a critic like those of
``examples/ppo_cartpole_torch.py`` on made-up minibatches of 64. The contenders take turns, in random order and in
one process; the figures are medians over rounds, and ratios medians of the ratio within a round.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fastadam.torch
from benchmarks import interleaved

BATCH = 64
MAX_GRAD_NORM = 0.5
IN_A_ROW = 5  # updates in a turn

# fastadam clips within its step; torch's gradients are clipped before.
CONTENDERS: dict[str, Callable[..., Any]] = {
    "fastadam": functools.partial(fastadam.torch.Adam, max_grad_norm=MAX_GRAD_NORM),
    "torch": torch.optim.Adam,
    "torch fused": functools.partial(torch.optim.Adam, fused=True),
}


def mlp(*sizes: int) -> nn.Sequential:
    """Return a fully connected network with tanh between its layers."""
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def contender(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a whole update, and clipping and the optimizer's step alone, on the gradients of the last update."""
    torch.manual_seed(0)
    actor, critic = mlp(4, 64, 64, 2), mlp(4, 64, 64, 1)
    params = list(actor.parameters()) + list(critic.parameters())
    # At so small a rate, thousands of updates leave the gradients, and so the work, as they are.
    optimizer = CONTENDERS[name](params, lr=1e-9)
    obs, actions = torch.randn(BATCH, 4), torch.randint(2, (BATCH, 1))
    old_log_probs, advantages, targets = torch.full((BATCH,), -0.7), torch.randn(BATCH), torch.randn(BATCH)

    def step() -> None:
        if name != "fastadam":
            nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM)
        optimizer.step()

    def update() -> None:
        log_probs = actor(obs).log_softmax(dim=1).gather(1, actions)[:, 0]
        ratio = torch.exp(log_probs - old_log_probs)
        gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        loss = 0.5 * nn.functional.mse_loss(critic(obs)[:, 0], targets) - gain
        optimizer.zero_grad()
        loss.backward()
        step()

    return update, step


def table(times: interleaved.Times) -> str:
    """Return a row for each contender: microseconds, and how many times as fast as torch and torch fused."""
    columns = "".join(f"{head:>10}" for head in ("us", "x torch", "x fused"))
    lines = [f"{'':12}{'whole update':>30}{'clip and step alone':>30}", f"{'optimizer':12}{columns}{columns}"]
    for name in CONTENDERS:
        line = f"{name:12}"
        for part in ("update", "step"):
            line += f"{statistics.median(times[f'{part} {name}']) * 1e6:10.1f}"
            for base in ("torch", "torch fused"):
                line += f"{interleaved.ratio(times, f'{part} {base}', f'{part} {name}'):10.2f}"
        lines.append(line)
    return "\n".join([*lines, "x torch, x fused: how many times as fast as torch and torch fused"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sharing out layers this small among threads gains nothing
    steps = {}
    for name in CONTENDERS:
        steps[f"update {name}"], steps[f"step {name}"] = contender(name)
        steps[f"update {name}"]()  # so that there are gradients
    print(table(interleaved.run(steps, args.rounds, lambda _: IN_A_ROW, warm=True)))


if __name__ == "__main__":
    main()
