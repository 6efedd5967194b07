"""Sets of array shapes to take steps over."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Shapes = list[tuple[int, ...]]


def mlp(*widths: int) -> Shapes:
    """Return weight and bias shapes of a network with these layer widths."""
    return [shape for fan_in, fan_out in pairwise(widths) for shape in ((fan_out, fan_in), (fan_out,))]


def ppo_pair() -> Shapes:
    """Return an actor 4-64-64-2 and a critic 4-64-64-1: 12 tensors, 9,155 parameters."""
    return mlp(4, 64, 64, 2) + mlp(4, 64, 64, 1)


def digits_mlp() -> Shapes:
    """Return a classifier 784-512-512-10: 6 tensors, 669,706 parameters."""
    return mlp(784, 512, 512, 10)


def tiny_tensors(count: int = 3000) -> Shapes:
    """Return vectors of 1 to 97 elements, 3,000 of them unless told otherwise."""
    return [(int(n),) for n in np.random.default_rng(0).integers(1, 98, count)]


def resnet50() -> Shapes:
    """Return ResNet-50 for 1,000 classes: 161 tensors, 25,557,032 parameters."""
    shapes: Shapes = []

    def convolution(fan_in: int, fan_out: int, kernel: int) -> None:
        shapes.extend([(fan_out, fan_in, kernel, kernel), (fan_out,), (fan_out,)])  # and its batch norm

    convolution(3, 64, 7)
    fan_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolution(fan_in, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:
                convolution(fan_in, 4 * width, 1)
            fan_in = 4 * width
    return [*shapes, (1000, fan_in), (1000,)]


def gpt2_small() -> Shapes:
    """Return GPT-2 small: 148 tensors, 124,439,808 parameters."""
    width = 768
    block = [(width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *(block * 12), (width,), (width,)]
