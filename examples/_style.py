"""The look that the pictures of the examples share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure, SubFigure
from PIL import Image

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd7a2f", "#2f9468", "#c53f4a", "#8a929e"

LOOK: dict[str, Any] = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.3,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def new_figure(height: float = 4.0) -> Figure:
    """Return an empty figure, as wide as the text of a page; `height` is in inches."""
    matplotlib.style.use(LOOK)
    return Figure(figsize=(7, height), layout="constrained")


def rows_of(figure: Figure, *heights: float) -> list[SubFigure]:
    """Divide a figure into rows of these relative heights."""
    grid = figure.add_gridspec(len(heights), height_ratios=heights)
    return [figure.add_subfigure(grid[i]) for i in range(len(heights))]


def save(figure: Figure, path: Path) -> None:
    """Write a figure to an image file, and say so."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130)
    # A palette of 128 colours, which suffices for such pictures, makes the file a third as large.
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"The picture is in {path}")
