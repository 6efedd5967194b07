"""Classify handwritten digits with a small convolutional network, AdamW and a learning-rate schedule.

The data are the 1,797 images of 8 x 8 pixels that come with scikit-learn. The optimizer is
fastadam's AdamW for PyTorch, with weight decay on the weights and none on the biases; the schedule
is PyTorch's OneCycleLR. ``--optimizer torch`` trains with PyTorch's own AdamW instead.

With ``--checkpoint PATH``, the model, the optimizer and the schedule are saved there after every
epoch, and training goes on from there if the file exists. A run that was interrupted and resumed
ends with the same weights, to the last bit, as one that was not.

Needs fastadam, torch, scikit-learn, matplotlib and tqdm. Run it with ``python digits_torch.py``.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

import fastadam.torch

BATCH_SIZE = 64
LEARNING_RATE = 1e-2  # at its highest
WEIGHT_DECAY = 1e-2
WARM_UP = 0.2  # part of the steps in which the learning rate rises
TEST_SHARE = 0.2  # of the images

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "fastadam": fastadam.torch.AdamW,
    "torch": torch.optim.AdamW,
}


class Data(NamedTuple):
    """Images of shape (n, 1, 8, 8) with values from 0 to 1, and their digits."""

    train_images: torch.Tensor
    train_digits: torch.Tensor
    test_images: torch.Tensor
    test_digits: torch.Tensor


class CheckpointError(ValueError):
    """The checkpoint is of a run with other settings."""


class Run(NamedTuple):
    """What training gives: the network, and the history from the first epoch on."""

    model: nn.Module
    history: dict[str, list[float]]


def load_data(seed: int) -> Data:
    """Load the digits and split them at random, each digit in the same proportion."""
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, digits, test_size=TEST_SHARE, random_state=seed, stratify=digits)
    train_images, test_images, train_digits, test_digits = map(torch.from_numpy, parts)
    return Data(train_images, train_digits, test_images, test_digits)


def make_model() -> nn.Sequential:
    """Make the network, which turns images into logits of the ten digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def make_optimizer(model: nn.Module, name: str = "fastadam") -> torch.optim.Optimizer:
    """Make one of `OPTIMIZERS` over two parameter groups: weights decay, biases do not."""
    named = list(model.named_parameters())
    biases = [param for key, param in named if key.endswith("bias")]
    weights = [param for key, param in named if not key.endswith("bias")]
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "weight_decay": 0.0}]
    return OPTIMIZERS[name](groups, lr=LEARNING_RATE)


def accuracy(model: nn.Module, images: torch.Tensor, digits: torch.Tensor) -> float:
    """Return the share of images whose digit the model tells."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == digits).float().mean())


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption at any time leaves a whole one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(checkpoint, unfinished)
    unfinished.replace(path)


def train(
    seed: int = 0,
    epochs: int = 20,
    optimizer: str = "fastadam",
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Run:
    """Train on the digits. Seeds PyTorch's random numbers.

    Parameters
    ----------
    seed : int
        Decides the split of the data, the initial weights and the minibatches.
    epochs : int
        Passes over the training images.
    optimizer : str
        One of `OPTIMIZERS`.
    checkpoint : Path or None
        Where to save after every epoch. If the file exists, training goes on from there.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    model : torch.nn.Module
        The trained network.
    history : dict of lists of float
        ``"loss"`` and ``"lr"`` of every step, ``"train accuracy"`` and ``"test accuracy"`` after
        every epoch.

    Raises
    ------
    CheckpointError
        If the checkpoint is of a run with another seed or another number of epochs.
    """
    data = load_data(seed)
    torch.manual_seed(seed)
    model = make_model()
    adamw = make_optimizer(model, optimizer)
    n = len(data.train_images)
    n_batches = -(-n // BATCH_SIZE)
    # This schedule also moves the first of the betas: down while the learning rate rises, then up.
    scheduler = OneCycleLR(adamw, LEARNING_RATE, total_steps=epochs * n_batches, pct_start=WARM_UP)
    settings = {"seed": seed, "epochs": epochs}
    history: dict[str, list[float]] = {"loss": [], "lr": [], "train accuracy": [], "test accuracy": []}

    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)  # tensors and plain numbers, no code
        if saved["settings"] != settings:
            raise CheckpointError(f"{checkpoint} is of a run with {saved['settings']}, not {settings}")
        model.load_state_dict(saved["model"])
        adamw.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"])
        history = saved["history"]

    first = len(history["test accuracy"])
    with tqdm(total=epochs, initial=first, unit=" epochs", disable=not progress) as bar:
        for _ in range(first, epochs):
            for batch in torch.randperm(n).split(BATCH_SIZE):
                loss = nn.functional.cross_entropy(model(data.train_images[batch]), data.train_digits[batch])
                adamw.zero_grad()
                loss.backward()
                adamw.step()
                history["loss"].append(loss.item())
                history["lr"].append(scheduler.get_last_lr()[0])
                scheduler.step()
            history["train accuracy"].append(accuracy(model, data.train_images, data.train_digits))
            history["test accuracy"].append(accuracy(model, data.test_images, data.test_digits))
            if checkpoint is not None:
                parts = {"model": model, "optimizer": adamw, "scheduler": scheduler}
                states = {name: part.state_dict() for name, part in parts.items()}
                save(
                    checkpoint, {**states, "rng": torch.get_rng_state(), "history": history, "settings": settings}
                )
            bar.update()
            bar.set_postfix_str(f"test accuracy {history['test accuracy'][-1]:.1%}")
    return Run(model, history)


def plot(history: dict[str, list[float]], path: Path) -> None:
    """Write the loss, the accuracy and the learning rate, over the epochs, to an image file."""
    epochs = np.arange(1, len(history["test accuracy"]) + 1)
    steps = np.arange(1, len(history["loss"]) + 1) * len(epochs) / len(history["loss"])
    figure = Figure(figsize=(8, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, sharex=True, height_ratios=(2, 2, 1))
    top.semilogy(steps, history["loss"], color="tab:blue", alpha=0.4, lw=1, label="one minibatch")
    means = np.reshape(history["loss"], (len(epochs), -1)).mean(axis=1)
    top.semilogy(epochs - 0.5, means, ".-", color="tab:blue", label="mean of the epoch")
    top.set(ylabel="loss", title="A small convolutional network on handwritten digits")
    for key, color, label in (
        ("train accuracy", "tab:blue", "training images"),
        ("test accuracy", "tab:orange", "test images"),
    ):
        middle.plot(epochs, 100 * np.array(history[key]), ".-", color=color, label=label)
    middle.set(ylabel="accuracy (%)")
    bottom.plot(steps, history["lr"], color="tab:green")
    bottom.set(xlabel="epoch", ylabel="learning rate")
    bottom.set_ylim(bottom=0)
    bottom.set_xlim(0, 1.01 * len(epochs))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (top, middle, bottom):
        ax.grid(alpha=0.3)
    top.legend(loc="upper right")
    middle.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train with the options of the command line, report the result and plot it."""
    parser = argparse.ArgumentParser(
        description="Classify handwritten digits with PyTorch and fastadam.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="decides everything random")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--plot", type=Path, default="digits_torch.png", help="image to write")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="fastadam", help="which AdamW to train with")
    # Sharing out layers this small among threads gains nothing, and costs much where cores are busy.
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch; one suits small networks")
    parser.add_argument("--checkpoint", type=Path, help="file to save to after every epoch, and to resume from")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args()
    for name in ("epochs", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.seed < 0:
        parser.error("--seed must be at least 0")
    torch.set_num_threads(args.threads)

    start = time.perf_counter()
    try:
        _, history = train(args.seed, args.epochs, args.optimizer, args.checkpoint, progress=not args.quiet)
    except CheckpointError as error:
        parser.error(str(error))
    seconds = time.perf_counter() - start
    plot(history, args.plot)
    print(f"Test accuracy: {history['test accuracy'][-1]:.4f} ({seconds:.1f} s)")


if __name__ == "__main__":
    main()
