"""Save and load a large state, and measure the memory that this takes beside the state itself.

``python -m tests.big_checkpoint --gigabytes 4`` needs that much memory, and that much on the disk while it runs.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

import fastadam

ALLOWED = 64e6  # bytes


def peak() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(path: Path, nbytes: float, progress: bool = False) -> tuple[int, int]:
    """Return by how many bytes saving, and then loading, raised the peak of memory.

    Parameters
    ----------
    path : Path
        Where to write.
    nbytes : float
        How large the file is to be: a third of it parameters, the rest moments.
    progress : bool
        Show a progress bar.
    """
    numbers = int(nbytes / 3 / 4)
    params = [np.ones(numbers // 2, np.float32), np.ones((7, numbers // 14), np.float32)]
    optimizer = fastadam.Adam(params, backend="numpy")
    for group in optimizer._groups:  # a step, without its temporary arrays
        group.set_steps(np.array([1, 1]))
        for buffers in group.moments.values():
            for buffer in buffers.values():
                buffer[...] = 2
    small = fastadam.Adam([np.ones(3)], backend="numpy")
    fastadam.save(path, small, progress=progress)  # what is imported once is no peak
    fastadam.load(path, small)
    before = peak()
    start = time.perf_counter()
    fastadam.save(path, optimizer, progress=progress)
    saved, middle = peak(), time.perf_counter()
    for param in params:
        param[...] = 0
    for buffers in optimizer._groups[0].moments.values():
        for buffer in buffers.values():
            buffer[...] = 0
    cleared = time.perf_counter()
    fastadam.load(path, optimizer, progress=progress)
    loaded, end = peak(), time.perf_counter()
    for array, value in [
        *((param, 1) for param in params),
        *((optimizer.state[i][name], 2) for i in (0, 1) for name in ("exp_avg", "exp_avg_sq")),
    ]:
        assert array.min() == array.max() == value, "the file did not give back what was saved"
    print(f"{path.stat().st_size / 1e9:.2f} GB: saved in {middle - start:.1f} s, loaded in {end - cleared:.1f} s")
    return saved - before, loaded - before


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="where to write, for a while; a temporary folder if not given")
    parser.add_argument("--progress", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        saving, loading = measure(Path(folder) / "run", given.gigabytes * 1e9, given.progress)
    print(
        f"extra memory: {saving / 1e6:.1f} MB to save, {loading / 1e6:.1f} MB to load; {ALLOWED / 1e6:.0f} allowed"
    )
    if max(saving, loading) > ALLOWED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
