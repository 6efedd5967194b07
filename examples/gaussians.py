"""Paint a picture with Gaussians, which split, are added where they are missed and go where they are hardly seen.

The picture is a sum of coloured bells over a background. At a place r,

    picture(r) = background + sum over i of colour_i exp(-|L_i (r - centre_i)|^2 / 2)

where L_i is a lower triangular matrix of 2 x 2, so that a bell can be long, thin and turned. The gradients are
written by hand. When bells go or come, ``optimizer.resize`` takes along the moments of those that stay.

Needs fastadam and matplotlib. Run it with ``python examples/gaussians.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from _landscape import SIZE, landscape, pixels
from _options import make_parser, positive
from _style import BLUE, ORANGE, new_figure, rows_of, save
from numpy.typing import NDArray

import fastadam

RATES = {"background": 0.01, "centre": 0.002, "shape": 0.3, "colour": 0.02}  # learning rates
REVISE_EVERY = 50  # steps
SPLIT, SMALLER = 5, 1.6  # how many are split in each revision, and how many times as small their halves are
NEWCOMERS = 15  # Gaussians that come in each revision, and at the beginning
FAINT = 0.03  # Gaussians whose strongest colour is below this go

Floats = NDArray[np.floating]
Params = dict[str, Floats]


class Run(NamedTuple):
    """What painting gives: the parameters, the error and the number of Gaussians of each step, and paintings."""

    params: Params
    errors: list[float]
    counts: list[int]
    paintings: dict[int, Floats]  # by the step after which they were made, as large as the picture


def paint(params: Params, r: Floats) -> tuple[Floats, ...]:
    """Return the colours at places r, (pixels, 3), and what they are made of, each (Gaussians, pixels).

    That is the height of each bell at each place, its offset (x, y) = r - centre, and (u, v) = L (x, y).
    """
    x, y = r[:, 0] - params["centre"][:, :1], r[:, 1] - params["centre"][:, 1:]
    l_xx, l_yx, l_yy = params["shape"].T[:, :, None]
    u, v = l_xx * x, l_yx * x + l_yy * y
    heights = np.exp(-(u**2 + v**2) / 2)
    return params["background"] + heights.T @ params["colour"], heights, x, y, u, v


def loss_and_gradients(params: Params, r: Floats, target: Floats) -> tuple[Floats, Params]:
    """Return the errors, (pixels, 3), and the gradients of half the sum of their squares."""
    colours, heights, x, y, u, v = paint(params, r)
    error = colours - target
    slopes = -(params["colour"] @ error.T) * heights
    d_u, d_v = slopes * u, slopes * v  # the derivatives of the loss by u and v, and so on
    l_xx, l_yx, l_yy = params["shape"].T
    d_shape = np.stack([(d_u * x).sum(axis=1), (d_v * x).sum(axis=1), (d_v * y).sum(axis=1)], axis=1)
    d_x, d_y = l_xx * d_u.sum(axis=1) + l_yx * d_v.sum(axis=1), l_yy * d_v.sum(axis=1)
    gradients = {"background": error.sum(axis=0), "centre": -np.stack([d_x, d_y], axis=1), "shape": d_shape}
    return error, gradients | {"colour": heights @ error}


def newcomers(error: Floats, r: Floats, n: int, rng: np.random.Generator) -> Params:
    """Return n small Gaussians at pixels with large errors, each in the colour that is missing there."""
    weights = (error.astype(np.float64) ** 2).sum(axis=1)
    chosen = rng.choice(len(r), n, replace=False, p=weights / weights.sum())
    return {"centre": r[chosen], "shape": np.full((n, 3), [20, 0, 20], np.float32), "colour": -error[chosen] / 2}


def revise(params: Params, optimizer: fastadam.Adam, pull: Floats, new: Params, rng: np.random.Generator) -> None:
    """Split the Gaussians whose centres are pulled hardest, remove faint ones and add new ones."""
    parents = np.argsort(-np.linalg.norm(pull, axis=1))[:SPLIT]
    for name in new:
        params[name] = optimizer.resize(name, grow=parents)  # their copies, behind all others
    l_xx, l_yx, l_yy = params["shape"][parents].T
    u, v = rng.standard_normal((2, len(parents)), np.float32) / 2
    offset = np.stack([u / l_xx, (v - l_yx * u / l_xx) / l_yy], axis=1)  # L offset = (u, v), half a width
    for halves, sign in ((parents, 1), (slice(len(pull), None), -1)):
        params["centre"][halves] += sign * offset
        params["shape"][halves] *= SMALLER
    stay = np.abs(params["colour"]).max(axis=1) > FAINT
    for name, rows in new.items():
        params[name] = optimizer.resize(name, keep=stay, grow=len(rows))
        params[name][stay.sum() :] = rows


def train(seed: int = 0, steps: int = 600) -> Run:
    """Paint the landscape. Gaussians come and go in the first four fifths of the steps."""
    rng = np.random.default_rng(seed)
    r, target = pixels(), landscape().reshape(-1, 3)
    background = target.mean(axis=0)
    params = {"background": background, **newcomers(background - target, r, NEWCOMERS, rng)}
    optimizer = fastadam.Adam([{"params": params, "lr": RATES}])
    errors, counts, paintings = [], [], {}
    for step in range(1, steps + 1):
        error, gradients = loss_and_gradients(params, r, target)
        optimizer.step(gradients)
        errors.append(float(np.sqrt((error**2).mean())))
        counts.append(len(params["centre"]))
        if step in (steps // 12, steps // 3, steps):
            paintings[step] = paint(params, r)[0].reshape(SIZE, SIZE, 3).clip(0, 1)
        if step % REVISE_EVERY == 0 and step < 0.8 * steps:
            revise(params, optimizer, gradients["centre"], newcomers(error, r, NEWCOMERS, rng), rng)
    return Run(params, errors, counts, paintings)


def plot(run: Run, path: Path) -> None:
    """Draw the paintings beside the picture, where the Gaussians are, and how their number and the error went."""
    figure = new_figure(4.4)
    top, bottom = rows_of(figure, 1, 1)
    pictures = [*run.paintings.items(), (0, landscape())]
    for ax, (step, painting) in zip(top.subplots(1, len(pictures)), pictures, strict=True):
        ax.imshow(painting)
        ax.set_title(f"{run.counts[step - 1]} Gaussians" if step else "the picture")
        ax.axis("off")
    left, middle, right = bottom.subplots(1, 3)
    left.semilogy(run.errors, color=BLUE)
    left.set(xlabel="step", title="Error of a colour (RMS)")
    middle.plot(run.counts, color=ORANGE)
    middle.set(xlabel="step", title="Gaussians")
    circle = np.array([[np.cos(angle), np.sin(angle)] for angle in np.linspace(0, 2 * np.pi, 30)]).T
    for (x, y), (l_xx, l_yx, l_yy) in zip(run.params["centre"], run.params["shape"], strict=True):
        outline = np.linalg.solve([[l_xx, 0], [l_yx, l_yy]], circle)
        right.plot(x + outline[0], y + outline[1], color="black", lw=0.4)
    right.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", title="Where they are")
    right.axis("off")
    save(figure, path)


def main() -> None:
    """Paint, print the error and draw the picture."""
    parser = make_parser("Paint a picture with Gaussians and fastadam.", "gaussians.png")
    parser.add_argument("--steps", type=positive, default=600, help="of the optimizer")
    args = parser.parse_args()
    run = train(args.seed, args.steps)
    print(f"{run.counts[-1]} Gaussians, error of a colour {run.errors[-1]:.4f} (colours go from 0 to 1)")
    plot(run, args.plot)


if __name__ == "__main__":
    main()
