"""What averages of the parameters and zeroed gradients add to a step: ``python -m benchmarks.averages``.

Steps of ten million float32 numbers (or as many as the command line says) with and without them, in turns, so that
whatever else the machine does hits all of them. A step moves 28 bytes a number, an average 8 more: 1.29 times as
many. The bar is 1.35 times the step alone.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import fastadam
from fastadam.backends import HOST

WAYS = {
    "averages": ({"ema_decay": 0.999}, False),
    "zeroed gradients": ({}, True),
    "both": ({"ema_decay": 0.999}, True),
}


class Steps:
    """Steps of one optimizer over a packed buffer."""

    def __init__(self, size: int, backend: str, threads: int | None, decay: float | None, zero_grad: bool) -> None:
        self.flat = fastadam.pack([np.ones(size, np.float32)])
        self.flat.grad[...] = np.random.default_rng(0).standard_normal(size, np.float32)
        self.optimizer = fastadam.Adam(self.flat, backend=backend, threads=threads, ema_decay=decay)  # type: ignore[arg-type]
        self.zero_grad = zero_grad
        self.take()

    def take(self) -> float:
        """Return how long a step has taken, in seconds."""
        start = time.perf_counter()
        self.optimizer.step(zero_grad=self.zero_grad)
        return time.perf_counter() - start


def compare(size: int, backend: str, threads: int | None, rounds: int) -> dict[str, float]:
    """Return how many times as long as the step alone each way takes: medians over rounds."""
    alone = Steps(size, backend, threads, None, False)
    found = {}
    for name, (options, zero_grad) in WAYS.items():
        other = Steps(size, backend, threads, options.get("ema_decay"), zero_grad)
        ratios = []
        for _ in range(rounds):
            before, taken, after = alone.take(), other.take(), alone.take()
            ratios.append(2 * taken / (before + after))
        found[name] = statistics.median(ratios)
    return found


def main() -> None:
    """Compare, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10**7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    for backend in HOST:
        if fastadam.available_backends()[backend] == "available":
            found = compare(arguments.size, backend, arguments.threads, arguments.rounds)
            print(backend, ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items()), flush=True)


if __name__ == "__main__":
    main()
