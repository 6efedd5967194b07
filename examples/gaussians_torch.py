"""Paint a picture with Gaussians in PyTorch, which split where they are too coarse and go where they are faint.

The picture is a sum of coloured bells over a background, as in gaussians.py, and autograd finds the gradients. It
begins with a few large bells. Every now and then those whose centres are pulled hardest are split into two smaller
ones, and those that can hardly be seen are removed, as in "3D Gaussian Splatting" (Kerbl et al., 2023). The
parameters change size each time, and `optimizer.resize` takes their moments along.

Needs fastadam, torch and matplotlib. Run it with ``python examples/gaussians_torch.py --plot gaussians.png``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from _landscape import SIZE, landscape, pixels
from _options import make_parser, positive
from _style import new_figure, save
from torch import Tensor, nn

import fastadam.torch

RATES = {"background": 0.01, "centre": 0.002, "shape": 0.3, "colour": 0.02}  # learning rates
OF_EACH = ("centre", "shape", "colour")  # the parameters with a row for each Gaussian
START = 20  # Gaussians
REVISE_EVERY = 50  # steps
SPLIT = 0.25  # of the Gaussians, in each revision
SMALLER = 1.6  # times as small as a Gaussian are the two that it is split into
FAINT = 0.03  # Gaussians whose strongest colour is below this go


class Run(NamedTuple):
    """What painting gives: the model, and how good it was, in dB, and how many Gaussians it had in each step."""

    model: Gaussians
    psnr: list[float]
    counts: list[int]


class Gaussians(nn.Module):  # type: ignore[misc]
    """Bells of colour at random places, over a background.

    `shape` has the three numbers of the lower triangular matrix L of each bell ``exp(-|L (r - centre)|^2 / 2)``.
    """

    def __init__(self, n: int, background: Tensor) -> None:
        super().__init__()
        self.background = nn.Parameter(background)
        self.centre = nn.Parameter(torch.rand(n, 2))
        self.shape = nn.Parameter(torch.tensor([8.0, 0.0, 8.0]).repeat(n, 1))
        self.colour = nn.Parameter(0.1 * torch.randn(n, 3))

    def forward(self, r: Tensor) -> Tensor:
        """Return the colours at places r, (pixels, 3)."""
        x, y = (r[:, None] - self.centre).unbind(dim=2)
        l_xx, l_yx, l_yy = self.shape.unbind(dim=1)
        heights = torch.exp(-((l_xx * x) ** 2 + (l_yx * x + l_yy * y) ** 2) / 2)
        return self.background + heights @ self.colour


def revise(model: Gaussians, optimizer: fastadam.torch.Adam, pull: Tensor) -> None:
    """Remove faint Gaussians, and split those whose centres were pulled hardest."""
    with torch.no_grad():
        keep = model.colour.abs().amax(dim=1) > FAINT
        hardest = torch.where(keep, pull, 0).topk(max(1, int(SPLIT * len(pull)))).indices
        parents = hardest[keep[hardest]]
        for name in OF_EACH:
            setattr(model, name, optimizer.resize(getattr(model, name), keep, grow=parents))
        first = (keep.cumsum(dim=0) - 1)[parents]  # where the parents are now, which become one of the two
        second = torch.arange(len(keep[keep]), len(model.centre))
        # Half a width away from the centre, to either side: L offset = noise.
        noise = torch.randn(len(parents), 2, 1) / 2
        l_xx, l_yx, l_yy = model.shape[first].unbind(dim=1)
        triangles = torch.stack([l_xx, torch.zeros_like(l_xx), l_yx, l_yy], dim=1).reshape(-1, 2, 2)
        offset = torch.linalg.solve_triangular(triangles, noise, upper=False)[:, :, 0]
        for rows, sign in ((first, 1), (second, -1)):
            model.centre[rows] += sign * offset
            model.shape[rows] *= SMALLER


def train(seed: int = 0, steps: int = 600) -> Run:
    """Paint the landscape. Gaussians come and go in the first four fifths of the steps."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    r, target = torch.from_numpy(pixels()), torch.from_numpy(landscape()).reshape(-1, 3)
    model = Gaussians(START, target.mean(dim=0))
    groups = [{"params": [each], "lr": RATES[name]} for name, each in model.named_parameters()]
    optimizer = fastadam.torch.Adam(groups)
    psnr, counts, pull = [], [], torch.zeros(START)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        error = ((model(r) - target) ** 2).mean()
        error.backward()
        optimizer.step()
        pull += model.centre.grad.norm(dim=1)
        psnr.append(-10 * float(error.detach().log10()))
        counts.append(len(model.centre))
        if step % REVISE_EVERY == 0 and step < 0.8 * steps:
            revise(model, optimizer, pull)
            pull = torch.zeros(len(model.centre))
    return Run(model, psnr, counts)


def plot(run: Run, path: Path) -> None:
    """Draw the painting beside the picture, and how it went."""
    figure = new_figure(2.4)
    painting, picture, quality = figure.subplots(1, 3)
    with torch.no_grad():
        colours = run.model(torch.from_numpy(pixels()))
    for ax, image, title in (
        (painting, colours.reshape(SIZE, SIZE, 3).clamp(0, 1).numpy(), f"{run.counts[-1]} Gaussians"),
        (picture, landscape(), "the picture"),
    ):
        ax.imshow(image)
        ax.set_title(title)
        ax.axis("off")
    quality.plot(run.psnr)
    quality.set(xlabel="step", title="PSNR (dB)")
    save(figure, path)


def main() -> None:
    """Paint, print how good it is, and draw the picture if asked."""
    parser = make_parser("Paint a picture with Gaussians that split, and fastadam.torch.", "")
    parser.set_defaults(plot=None)
    parser.add_argument("--steps", type=positive, default=600, help="of the optimizer")
    args = parser.parse_args()
    run = train(args.seed, args.steps)
    print(f"before: {run.counts[0]} Gaussians, PSNR {run.psnr[0]:.2f} dB")
    print(f"after: {run.counts[-1]} Gaussians, PSNR {run.psnr[-1]:.2f} dB")
    if args.plot is not None:
        plot(run, args.plot)


if __name__ == "__main__":
    main()
