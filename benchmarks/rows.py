"""Steps over some rows of a table: ``python -m benchmarks.rows``.

A table of a million rows of 64 float32 numbers (or as many as the command line says), of which a step has so many
random rows: by `fastadam.Rows`, by `torch.optim.SparseAdam` (where there is torch), and the step over the whole
table, in turns; then 30 % of the rows by a mask. The bars: with 1,000 rows a hundred times as fast as the whole
table and three times as fast as SparseAdam, and by the mask as fast as the whole table. With ``--exact``, rows
catch up the steps that they have missed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import fastadam
from benchmarks import interleaved

OURS, PEER, DENSE, MASK = "fastadam.Rows", "SparseAdam", "fastadam, the whole table", "fastadam, 30 % by mask"
BARS = {1_000: {PEER: 3.0, DENSE: 100.0}}
ROWS_IN_TURN = 64_000  # of all batches, so that their rows are not in the cache when they come again
FEWEST, MOST = 4, 64  # batches; each contender steps over all of them in its turn
SHARE = 0.3  # of the rows, by mask


def batches(n_rows: int, width: int, touched: int) -> list[fastadam.Rows]:
    """Return gradients of random rows, some of which come twice."""
    rng = np.random.default_rng(touched)
    return [
        fastadam.Rows(rng.integers(n_rows, size=touched), rng.standard_normal((touched, width), np.float32))
        for _ in range(min(MOST, max(FEWEST, ROWS_IN_TURN // touched)))
    ]


def by_sparse_adam(shape: tuple[int, int]) -> Callable[[list[fastadam.Rows]], Callable[[], object]] | None:
    """Return what makes the steps of torch's SparseAdam; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    param = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.SparseAdam([param])

    def stepping(rows: list[fastadam.Rows]) -> Callable[[], object]:
        grads = [
            torch.sparse_coo_tensor(
                torch.from_numpy(each.indices)[None], torch.from_numpy(each.grads), shape, check_invariants=True
            )
            for each in rows
        ]
        in_turn = itertools.cycle(grads)

        def step() -> None:
            param.grad = next(in_turn)
            optimizer.step()

        return step

    return stepping


def in_turn(optimizer: fastadam.Adam, steps: list[dict[str, Any]]) -> Callable[[], object]:
    """Return what takes the next of these steps."""
    each = itertools.cycle(steps)
    return lambda: optimizer.step(**next(each))


def show(times: Mapping[str, list[float]], bars: Mapping[str, float]) -> None:
    """Print times, ratios and what came of the bars, of which each names what is to be slower than the first."""
    for name, found in times.items():
        print(f"  {name:28} {1e6 * statistics.median(found):10.1f} us, {1e6 * min(found):10.1f} at best")
    first = next(iter(times))
    for name, least in bars.items():
        if name in times:
            ratio = interleaved.ratio(times, name, first)
            verdict = "met" if ratio >= least else "MISSED"
            print(f"  {ratio:.2f} times as fast as {name} (at least {least:g}) {verdict}")


def main() -> None:
    """Compare, and print the times, the ratios and what came of the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="of the table")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--touched", type=int, nargs="+", default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--exact", action="store_true", help="rows catch up the steps that they have missed")
    arguments = parser.parse_args()
    shape = arguments.rows, arguments.width
    options: dict[str, Any] = {"backend": arguments.backend, "lazy": "exact" if arguments.exact else "skip"}
    ours, dense = (fastadam.Adam(np.zeros(shape, np.float32), **options) for _ in range(2))
    sparse_adam = by_sparse_adam(shape)
    rng = np.random.default_rng(0)
    grads = rng.standard_normal(shape, np.float32)
    for touched in arguments.touched:
        rows = batches(*shape, touched)
        steps: dict[str, Callable[[], object]] = {OURS: in_turn(ours, [{"grads": each} for each in rows])}
        if sparse_adam is not None:
            steps[PEER] = sparse_adam(rows)
        steps[DENSE] = in_turn(dense, [{"grads": grads}])
        in_a_row = {name: 1 if name == DENSE else len(rows) for name in steps}
        times = interleaved.run(steps, arguments.rounds, in_a_row.__getitem__, warm=True)
        print(f"{touched:,} rows of {shape[0]:,}, each of {shape[1]} numbers")
        show(times, BARS.get(touched, {}))
    masks = [{"grads": grads, "mask": rng.random(shape[0]) < SHARE} for _ in range(FEWEST)]
    # Of its own, whose rows have stepped alike.
    masked = fastadam.Adam(np.zeros(shape, np.float32), **options)
    steps = {MASK: in_turn(masked, masks), DENSE: in_turn(dense, [{"grads": grads}])}
    print(f"30 % of {shape[0]:,} rows by a mask")
    show(interleaved.run(steps, arguments.rounds, lambda name: 1, warm=True), {DENSE: 1.0})


if __name__ == "__main__":
    main()
