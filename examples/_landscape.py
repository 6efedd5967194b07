"""The picture that ``gaussians.py`` paints: an evening by the sea."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SIZE = 64  # pixels in a row and in a column


def landscape() -> Floats:
    """Return the picture, shape (SIZE, SIZE, 3), with colours from 0 to 1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    sky = np.stack([0.95 - 0.5 * (0.6 - y), 0.55 - 0.3 * (0.6 - y), 0.35 + 0.6 * (0.6 - y)], axis=-1)
    sun = np.hypot(x - 0.62, y - 0.42) < 0.13
    picture = np.where(sun[..., None], [1.0, 0.9, 0.55], sky)
    for height, colour in ((0.42, [0.45, 0.3, 0.45]), (0.5, [0.28, 0.2, 0.35])):  # two ranges of mountains
        ridge = height + 0.08 * np.sin(9 * x + 20 * height) + 0.03 * np.sin(31 * x)
        picture = np.where((y > ridge)[..., None], colour, picture)
    waves = 0.06 * np.sin(90 * y + 4 * np.sin(7 * x)) + 0.35 * np.exp(-(((x - 0.62) / 0.1) ** 2))
    sea = np.stack([0.2 + waves, 0.25 + 0.6 * waves, 0.4 + 0.2 * waves], axis=-1)
    return np.where((y > 0.62)[..., None], sea, picture).clip(0, 1).astype(np.float32)


def pixels() -> Floats:
    """Return the places of the pixels, shape (SIZE * SIZE, 2), in units of the picture's width."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return np.stack([x.ravel(), y.ravel()], axis=1) / SIZE
