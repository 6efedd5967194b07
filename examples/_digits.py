"""The data of the two examples with digits: 1,797 images of 8 x 8 pixels, which come with scikit-learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Data(NamedTuple):
    """Images of shape (n, 8, 8) with values from 0 to 1, and their digits, shape (n,)."""

    train_images: NDArray[np.float32]
    test_images: NDArray[np.float32]
    train_digits: NDArray[np.int64]
    test_digits: NDArray[np.int64]


def load_data(seed: int) -> Data:
    """Load the digits and split them at random, 20 % of each digit for the test."""
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8)
    return Data(*train_test_split(images, digits, test_size=0.2, random_state=seed, stratify=digits))
