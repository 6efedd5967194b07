"""A step over state on disk, against reading and writing its file in order.

``python -m benchmarks.state_on_disk``: both run in turn, from the disk (the system's cache of the file is dropped
before each) and from that cache, and flush what they have written. The bar is a step at 80 % of the file's pace.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastadam

BAR = 0.8
PIECE = 2 << 20  # bytes that are read and written at once, as a step's windows


def resident() -> dict[str, float]:
    """Return the process's resident memory in MB: of its own, of files that it maps, and the most there was."""
    found = {}
    with open("/proc/self/status") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile", "VmHWM"):
                found[name] = int(value.split()[0]) * 1024 / 1e6
    return found


def drop(fd: int) -> None:
    """Write a file to its disk and have the system forget what is cached of it."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def in_order(fd: int, size: int, buffer: Any) -> None:
    """Read and write a file piece by piece, in order."""
    for offset in range(0, size, PIECE):
        n = os.preadv(fd, [buffer[: min(PIECE, size - offset)]], offset)
        os.pwrite(fd, buffer[:n], offset)


def seconds(fd: int, work: Callable[[], object], *, cold: bool) -> float:
    """Return how long work takes, with what it has written flushed."""
    drop(fd) if cold else os.fsync(fd)
    begin = time.perf_counter()
    work()
    os.fsync(fd)
    return time.perf_counter() - begin


def main(args: Sequence[str] | None = None) -> float:
    """Measure, print, and return the ratio of the paces from the disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=2000.0, help="of moments")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk that is measured")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(args)
    n = int(given.megabytes * 1e6 / 8)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = os.path.join(folder, "moments.bin")
        weights, gradient = np.zeros(n, np.float32), np.full(n, 1e-3, np.float32)
        optimizer = fastadam.Adam(weights, state_path=path)
        fd = os.open(path, os.O_RDONLY)
        copy = os.open(os.path.join(folder, "plain.bin"), os.O_RDWR | os.O_CREAT)
        size = os.fstat(fd).st_size
        buffer: Any = np.ones(PIECE, np.uint8)
        for offset in range(0, size, PIECE):
            os.pwrite(copy, buffer[: min(PIECE, size - offset)], offset)
        optimizer.step(gradient)
        ratios = {}
        for cold in (True, False):
            pairs = []
            for _ in range(given.rounds):
                plain = seconds(copy, lambda: in_order(copy, size, buffer), cold=cold)
                step = seconds(fd, lambda: optimizer.step(gradient), cold=cold)
                pairs.append((plain, step))
            plain, step = (statistics.median(each) for each in zip(*pairs, strict=True))
            ratios[cold] = statistics.median(one / other for one, other in pairs)
            print(
                f"{'from the disk' if cold else 'from the cache':14}  in order {size / plain / 1e6:6.0f} MB/s  "
                f"step {size / step / 1e6:6.0f} MB/s  ratio {ratios[cold]:.2f}  "
                f"({', '.join(f'{one / other:.2f}' for one, other in pairs)})"
            )
        os.close(fd)
        os.close(copy)
        arrays = (weights.nbytes + gradient.nbytes) / 1e6
        found = resident()
        print(
            f"bar {BAR}: {'met' if ratios[True] >= BAR else 'missed'}; resident {found['RssAnon']:.0f} MB and "
            f"{found['RssFile']:.0f} MB of mapped files, at most {found['VmHWM']:.0f}, of which {arrays:.0f} are "
            f"parameters and gradients; the file has {size / 1e6:.0f} MB"
        )
        return ratios[True]


if __name__ == "__main__":
    main()
