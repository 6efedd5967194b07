"""A linear model whose Adam state is four times as large as the memory it may use.

The weights are float16 with masters, so that with amsgrad each has 16 bytes beside its own 2. The state lies in a
file, and blocks of the features take turns, so that there are gradients of one block at a time::

    python examples/linear_on_disk.py --megabytes 2000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence

import numpy as np

import fastadam

STATE = 16  # bytes for each weight: three moments, and the rest of the master
BLOCKS = 16


def peak() -> float:
    """Return the most memory that the process has had, in MB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def features(block: int, sample: int, n: int) -> np.ndarray:
    """Return the features of one sample in one block: signs, which are made again each time."""
    rng = np.random.default_rng((block, sample))
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-n // 8)), np.uint8), count=n)
    return np.where(bits, np.float16(1), np.float16(-1))


def main(args: Sequence[str] | None = None) -> list[float]:
    """Fit one sample after the other, and return the losses of each pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=2000, help="of state")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where its file is to be")
    parser.add_argument("--passes", type=int, default=3)
    given = parser.parse_args(args)
    n = int(given.megabytes * 1e6 / STATE / BLOCKS)
    weights = [np.zeros(n, np.float16) for _ in range(BLOCKS)]
    scale = 1.0 / (n * BLOCKS)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = os.path.join(folder, "moments.bin")
        optimizer = fastadam.Adam(weights, lr=0.1, amsgrad=True, master_weights=True, state_path=path)
        print(f"{n * BLOCKS:,} weights; the file of state has {os.path.getsize(path) / 1e6:.0f} MB")
        losses = []
        for number in range(given.passes):
            begin = time.perf_counter()
            residual, loss = -1.0, 0.0  # the target is 1: blocks are fitted to it one by one
            for block, weight in enumerate(weights):
                x = features(block, 0, n)
                found = float(np.dot(x.astype(np.float32), weight.astype(np.float32)) * scale * BLOCKS)
                residual = found - 1.0
                loss += residual * residual / BLOCKS
                grads: list[np.ndarray | None] = [None] * BLOCKS
                x *= np.float16(residual)
                grads[block] = x
                optimizer.step(grads)
            losses.append(loss)
            print(
                f"pass {number + 1}: loss {loss:.4f}, {time.perf_counter() - begin:.1f} s, at most {peak():.0f} MB"
            )
        return losses


if __name__ == "__main__":
    main()
