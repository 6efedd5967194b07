"""Classify handwritten digits in plain NumPy, with gradients written by hand and packed parameters.

The data are the 1,797 images of 8 x 8 pixels that come with scikit-learn. The network has one hidden layer:

    hidden = max(0, x W1 + b1)        scores = hidden W2 + b2        probabilities = softmax(scores)

``fastadam.pack`` puts the four arrays into one buffer. ``flat.params["w1"]`` and ``flat.grads["w1"]`` are views
of it: the gradients are written where the optimizer finds them, and a step is one pass over the whole buffer.

Needs fastadam, scikit-learn and matplotlib. Run it with ``python examples/digits_numpy.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _digits import load_data
from _options import make_parser, positive
from _style import BLUE, GREY, ORANGE, RED, new_figure, rows_of, save
from numpy.typing import NDArray

import fastadam
from fastadam.schedules import Cosine

HIDDEN = 64
BATCH_SIZE = 32
LEARNING_RATE = 3e-3  # at the start; falls to zero along a cosine

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Params = Mapping[str, Floats]


class Run(NamedTuple):
    """What training gives: the parameters, the loss of every step and the test accuracy of every epoch."""

    params: Params
    losses: list[float]
    accuracies: list[float]


def initial_params(rng: np.random.Generator) -> dict[str, Floats]:
    """Return random weights and zero biases."""
    w1 = rng.standard_normal((64, HIDDEN), np.float32) * np.float32(np.sqrt(2 / 64))
    w2 = rng.standard_normal((HIDDEN, 10), np.float32) * np.float32(np.sqrt(1 / HIDDEN))
    return {"w1": w1, "b1": np.zeros(HIDDEN, np.float32), "w2": w2, "b2": np.zeros(10, np.float32)}


def forward(params: Params, x: Floats) -> tuple[Floats, Floats]:
    """Return the hidden layer, (n, HIDDEN), and the scores of the ten digits, (n, 10)."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    return hidden, hidden @ params["w2"] + params["b2"]


def loss_and_gradients(params: Params, grads: Params, x: Floats, digits: Ints) -> float:
    """Return the mean cross-entropy of a batch, and write its gradients into `grads`."""
    rows = np.arange(len(x))
    hidden, scores = forward(params, x)
    scores -= scores.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    # The derivative of the cross-entropy by the scores is: probabilities - one-hot digits.
    d_scores = np.exp(log_probs)
    d_scores[rows, digits] -= 1
    d_scores /= len(x)
    d_hidden = (d_scores @ params["w2"].T) * (hidden > 0)
    grads["w2"][...] = hidden.T @ d_scores
    grads["b2"][...] = d_scores.sum(axis=0)
    grads["w1"][...] = x.T @ d_hidden
    grads["b1"][...] = d_hidden.sum(axis=0)
    return -float(log_probs[rows, digits].mean())


def predict(params: Params, x: Floats) -> Ints:
    """Return the most probable digit of each image."""
    digits: Ints = forward(params, x)[1].argmax(axis=1)
    return digits


def train(seed: int = 0, epochs: int = 30) -> Run:
    """Train the network; the seed decides the split of the data, the initial weights and the batches."""
    images, test_images, digits, test_digits = load_data(seed)
    x, x_test = images.reshape(-1, 64), test_images.reshape(-1, 64)
    rng = np.random.default_rng(seed)
    flat = fastadam.pack(initial_params(rng))
    n_batches = len(x) // BATCH_SIZE
    optimizer = fastadam.Adam(flat, lr=Cosine(LEARNING_RATE, epochs * n_batches))
    losses, accuracies = [], []
    for _ in range(epochs):
        # The few images left over after the last whole batch are left out of this epoch.
        for batch in rng.permutation(len(x))[: n_batches * BATCH_SIZE].reshape(n_batches, BATCH_SIZE):
            losses.append(loss_and_gradients(flat.params, flat.grads, x[batch], digits[batch]))
            optimizer.step()
        accuracies.append(float((predict(flat.params, x_test) == test_digits).mean()))
    return Run(flat.params, losses, accuracies)


def plot(run: Run, seed: int, path: Path) -> None:
    """Draw the training, and test images with the predicted digits: those that are wrong come first."""
    _, images, _, digits = load_data(seed)
    predicted = predict(run.params, images.reshape(-1, 64))
    epochs = np.arange(1, len(run.accuracies) + 1)
    figure = new_figure(4.2)
    top, bottom = rows_of(figure, 3, 2)
    left, right = top.subplots(1, 2)
    left.semilogy(epochs, np.reshape(run.losses, (len(epochs), -1)).mean(axis=1), color=BLUE)
    left.set(xlabel="epoch", title="Training loss")
    right.plot(epochs, 100 * np.array(run.accuracies), color=ORANGE)
    right.set(xlabel="epoch", title="Test images recognized (%)")
    bottom.suptitle("Test images and what they are taken for, wrong ones first", fontsize="medium")
    order = np.argsort(predicted == digits, kind="stable")
    for ax, i in zip(bottom.subplots(2, 12).flat, order, strict=False):
        ax.imshow(images[i], cmap="gray_r")
        wrong = predicted[i] != digits[i]
        ax.set_title(predicted[i], color=RED if wrong else GREY, pad=2, fontweight="bold" if wrong else None)
        ax.axis("off")
    save(figure, path)


def main() -> None:
    """Train with the options of the command line, report the result and draw it."""
    parser = make_parser("Classify handwritten digits in plain NumPy with fastadam.", "digits_numpy.png")
    parser.add_argument("--epochs", type=positive, default=30, help="passes over the training images")
    args = parser.parse_args()
    run = train(args.seed, args.epochs)
    print(f"Loss {np.mean(run.losses[-20:]):.4f}, test accuracy {run.accuracies[-1]:.1%}")
    plot(run, args.seed, args.plot)


if __name__ == "__main__":
    main()
