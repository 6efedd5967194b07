"""Give a small language model a taste with PPO, as large ones are tuned to what people like (RLHF), in PyTorch.

A network first learns to write like Python's manual, letter by letter (``_letters.py``). A frozen copy of it is
the reference. Then the actor, which is the same network and goes on learning, writes short texts and gets a
point for every letter p, less what makes the letter more probable than it was before, so that it goes on writing
words:

    reward = [letter is p] - KL_COEF (log actor(letter) - log reference(letter))

A second network, the critic, learns how many points are still to come. The loss is PPO's clipped ratio for the
actor plus the mean squared error of the critic. One optimizer updates both.

Needs fastadam, torch and matplotlib. Run it with ``python examples/rlhf_torch.py``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from _letters import LENGTH, LETTERS, TEXTS, letter_model, log_probs, outputs, pretrain, spelled, write
from _options import make_parser, positive
from _style import BLUE, GREY, ORANGE, RED, new_figure, rows_of, save
from torch import nn

import fastadam.torch

WANTED = LETTERS.index("p")
EPOCHS = 4  # updates with each batch of texts
CLIP = 0.2
KL_COEF = 0.5
GAE_LAMBDA = 0.95
VALUE_COEF = 0.5


class Run(NamedTuple):
    """The means, over the texts of each round, of the wanted letters and of the divergence from the reference."""

    wanted: list[float]
    divergences: list[float]


def advantages_of(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return how much better than the critic expected each letter was (GAE without discount), (n, LENGTH)."""
    nothing = torch.zeros(len(values), 1)
    errors = rewards + torch.cat([values[:, 1:], nothing], dim=1) - values
    advantages = [nothing[:, 0]]
    for error in reversed(errors.unbind(dim=1)):
        advantages.insert(0, error + GAE_LAMBDA * advantages[0])
    return torch.stack(advantages[:-1], dim=1)


def tune(actor: nn.Module, rounds: int) -> Run:
    """Tune the actor with PPO: in each round it writes texts, and learns from them."""
    reference = copy.deepcopy(actor)
    critic = letter_model(1)
    params = list(actor.parameters()) + list(critic.parameters())
    optimizer = fastadam.torch.Adam(params, lr=1e-3, max_grad_norm=1.0)
    run = Run([], [])
    for _ in range(rounds):
        text = write(actor, TEXTS)
        with torch.no_grad():
            old = log_probs(actor, text)
            divergence = old - log_probs(reference, text)
            wanted = (text[:, 1:] == WANTED).float()
            values = outputs(critic, text[:, :-1])[..., 0]
            advantages = advantages_of(wanted - KL_COEF * divergence, values)
            targets = values + advantages
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(EPOCHS):
            ratio = torch.exp(log_probs(actor, text) - old)
            gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
            value_error = nn.functional.mse_loss(outputs(critic, text[:, :-1])[..., 0], targets)
            loss = VALUE_COEF * value_error - gain.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.wanted.append(wanted.sum(dim=1).mean().item())
        run.divergences.append(divergence.sum(dim=1).mean().item())
    return run


def plot(run: Run, before: list[str], after: list[str], path: Path) -> None:
    """Draw how the texts changed over the rounds, and texts from before and after."""
    figure = new_figure(5.0)
    top, bottom = rows_of(figure, 3, 2)
    left, right = top.subplots(1, 2)
    left.plot(run.wanted, color=BLUE)
    left.set(xlabel="round", title=f"Letters p in a text of {LENGTH}", ylim=(0, None))
    right.plot(run.divergences, color=ORANGE)
    right.set(xlabel="round", title="Divergence from the reference (nats)", ylim=(0, None))
    ax = bottom.subplots()
    for row, text in enumerate(before + after):
        ax.text(-2, -row, "before" if row < len(before) else "after", color=GREY, ha="right")
        for column, letter in enumerate(text):
            ax.text(column, -row, letter, family="monospace", color=RED if letter == "p" else "black")
    ax.set(xlim=(-20, 52), ylim=(-row - 0.5, 0.5))
    ax.axis("off")
    save(figure, path)


def main() -> None:
    """Train, tune, print some texts and draw the picture."""
    parser = make_parser("Tune a small language model with PPO, PyTorch and fastadam.", "rlhf_torch.png")
    parser.add_argument("--pretrain", type=positive, default=1500, help="steps of learning to write")
    parser.add_argument("--rounds", type=positive, default=100, help="rounds of PPO")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # sharing out layers this small among threads gains nothing
    actor = letter_model(len(LETTERS))
    pretrain(actor, args.pretrain)
    before = spelled(write(actor, 4))
    run = tune(actor, args.rounds)
    after = spelled(write(actor, 4))
    print("Before:", *before, "After:", *after, sep="\n  ")
    print(f"Letters p in a text: {run.wanted[0]:.2f} in the first round, {run.wanted[-1]:.2f} in the last")
    plot(run, before, after, args.plot)


if __name__ == "__main__":
    main()
