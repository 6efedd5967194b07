"""Classify handwritten digits with a small convolutional network, AdamW and a learning-rate schedule.

The data are the 1,797 images of 8 x 8 pixels that come with scikit-learn. The optimizer is fastadam's AdamW for
PyTorch, with weight decay on the weights and none on the biases; the schedule is PyTorch's OneCycleLR.
``--optimizer torch`` trains with PyTorch's own AdamW instead.

With ``--checkpoint PATH``, the model, the optimizer and the schedule are saved there after every epoch, and
training goes on from there if the file exists. A run that was interrupted and resumed ends with the same
weights, to the last bit, as one that was not.

Needs fastadam, torch, scikit-learn and matplotlib. Run it with ``python examples/digits_torch.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from _digits import load_data
from _options import make_parser, positive
from _style import BLUE, GREEN, ORANGE, new_figure, save
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import fastadam.torch

BATCH_SIZE = 64
LEARNING_RATE = 1e-2  # at its highest
WEIGHT_DECAY = 1e-2
WARM_UP = 0.2  # part of the steps in which the learning rate rises

OPTIMIZERS = {"fastadam": fastadam.torch.AdamW, "torch": torch.optim.AdamW}

History = dict[str, list[float]]


class CheckpointError(ValueError):
    """The checkpoint is of a run with other settings."""


def make_model() -> nn.Sequential:
    """Make the network, which turns images, (n, 8, 8), into logits of the ten digits, (n, 10)."""
    first, second = nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.Conv2d(16, 32, kernel_size=3, padding=1)
    last = nn.Linear(32 * 4 * 4, 10)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), last
    )


def make_optimizer(model: nn.Module, name: str = "fastadam") -> torch.optim.Optimizer:
    """Make one of `OPTIMIZERS` over two parameter groups: weights decay, biases do not."""
    weights = [param for key, param in model.named_parameters() if not key.endswith("bias")]
    biases = [param for key, param in model.named_parameters() if key.endswith("bias")]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "weight_decay": 0.0}]
    return OPTIMIZERS[name](groups, lr=LEARNING_RATE)


def accuracy(model: nn.Module, images: torch.Tensor, digits: torch.Tensor) -> float:
    """Return the share of images whose digit the model tells."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == digits).float().mean())


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption at any time leaves a whole one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(checkpoint, unfinished)
    unfinished.replace(path)


def train(
    seed: int = 0, epochs: int = 20, optimizer: str = "fastadam", checkpoint: Path | None = None
) -> tuple[nn.Module, History]:
    """Train on the digits, from the checkpoint on if there is one; seeds PyTorch's random numbers."""
    images, test_images, digits, test_digits = map(torch.from_numpy, load_data(seed))
    torch.manual_seed(seed)
    model = make_model()
    adamw = make_optimizer(model, optimizer)
    n = len(images)
    # This schedule also moves the first of the betas: down while the learning rate rises, then up.
    schedule = OneCycleLR(adamw, LEARNING_RATE, total_steps=epochs * -(-n // BATCH_SIZE), pct_start=WARM_UP)
    parts = {"model": model, "optimizer": adamw, "schedule": schedule}
    settings = {"seed": seed, "epochs": epochs}
    history: History = {"loss": [], "lr": [], "test accuracy": []}
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)  # tensors and plain numbers, no code
        if saved["settings"] != settings:
            raise CheckpointError(f"{checkpoint} is of a run with {saved['settings']}, not {settings}")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["rng"])
        history = saved["history"]

    for _ in range(len(history["test accuracy"]), epochs):
        for batch in torch.randperm(n).split(BATCH_SIZE):
            loss = nn.functional.cross_entropy(model(images[batch]), digits[batch])
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            history["loss"].append(loss.item())
            history["lr"].append(schedule.get_last_lr()[0])
            schedule.step()
        history["test accuracy"].append(accuracy(model, test_images, test_digits))
        if checkpoint is not None:
            states = {name: part.state_dict() for name, part in parts.items()}
            others = {"rng": torch.get_rng_state(), "history": history, "settings": settings}
            save_checkpoint(checkpoint, states | others)
    return model, history


def plot(history: History, path: Path) -> None:
    """Draw the loss, the accuracy and the learning rate."""
    figure = new_figure(3.2)
    left, middle, right = figure.subplots(1, 3)
    left.semilogy(history["loss"], color=BLUE, lw=0.8)
    left.set(xlabel="step", title="Loss of a minibatch")
    middle.plot(
        np.arange(1, 1 + len(history["test accuracy"])), 100 * np.array(history["test accuracy"]), color=ORANGE
    )
    middle.set(xlabel="epoch", title="Test images recognized (%)")
    right.plot(history["lr"], color=GREEN)
    right.set(xlabel="step", title="Learning rate")
    save(figure, path)


def main() -> None:
    """Train with the options of the command line, report the result and draw it."""
    parser = make_parser("Classify handwritten digits with PyTorch and fastadam.", "digits_torch.png")
    parser.add_argument("--epochs", type=positive, default=20, help="passes over the training images")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="fastadam", help="which AdamW to train with")
    parser.add_argument("--checkpoint", type=Path, help="file to save to after every epoch, and to resume from")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sharing out layers this small among threads gains nothing
    try:
        _, history = train(args.seed, args.epochs, args.optimizer, args.checkpoint)
    except CheckpointError as error:
        parser.error(str(error))
    print(f"Test accuracy: {history['test accuracy'][-1]:.4f}")
    plot(history, args.plot)


if __name__ == "__main__":
    main()
