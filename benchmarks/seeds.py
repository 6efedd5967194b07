"""Compare one thread with all threads for each of several seeds that train at the same time.

::

    python benchmarks/seeds.py
    python benchmarks/seeds.py --seeds 8 --rounds 20

Each seed is a process of its own, as in a sweep. Three ways take turns, in random order, so that whatever else the
machine does hits all of them: all seeds at once with one thread each; all at once, each with as many threads as
there are processors, which is what happens by itself; and one seed after another with all threads. Timed is
how long it takes until the last seed has taken its updates. All cases but the first need torch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam

ONE, ALL, IN_TURN = "at once, one thread each", "at once, all threads each", "one after another"


def packed() -> Callable[[], object]:
    """Return a step over a million packed numbers, without anything else."""
    flat = fastadam.pack([np.ones(1_000_000, np.float32)])
    flat.grad[...] = 0.1
    return fastadam.Adam(flat).step


def training(sizes: tuple[int, ...], rows: int) -> Callable[[], object]:
    """Return an update of a perceptron in torch: forward, backward, step."""
    import torch

    import fastadam.torch

    layers: list[torch.nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers)
    optimizer = fastadam.torch.Adam(model.parameters())
    x = torch.ones(rows, sizes[0])

    def update() -> None:
        model(x).square().mean().backward()
        optimizer.step(zero_grad=True)

    return update


# What is done, and how many updates a turn has.
CASES: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    "a step over 1,000,000 numbers": (packed, 50),
    "an update of 4-64-64-2, 64 rows": (lambda: training((4, 64, 64, 2), 64), 100),
    "an update of 784-256-256-10, 128 rows": (lambda: training((784, 256, 256, 10), 128), 20),
}


def work(case: str) -> None:
    """Be one seed: take the updates of a turn for each line of the standard input."""
    make, updates = CASES[case]
    update = make()
    for _ in range(10):
        update()
    print("ready", flush=True)
    for _ in sys.stdin:
        for _ in range(updates):
            update()
        print("done", flush=True)


class Seed:
    """A process that waits for its turns."""

    def __init__(self, case: str, threads: int) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        command = [sys.executable, __file__, "--work", case]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.wait()

    def go(self) -> None:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)

    def wait(self) -> None:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.end()
            raise RuntimeError(f"a seed has ended with exit code {self.process.returncode}")

    def end(self) -> None:
        self.process.communicate()


def seconds(way: str, seeds: list[Seed]) -> float:
    """Return the time until all seeds have had a turn."""
    start = time.perf_counter()
    if way == IN_TURN:
        for seed in seeds:
            seed.go()
            seed.wait()
    else:
        for seed in seeds:
            seed.go()
        for seed in seeds:
            seed.wait()
    return time.perf_counter() - start


def measure(case: str, count: int, processors: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each round."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {ONE: [], ALL: [], IN_TURN: []}
    with contextlib.ExitStack() as ends:
        single, many = ([_seed(case, threads, ends) for _ in range(count)] for threads in (1, processors))
        for _ in range(rounds):
            for way in rng.permutation(list(times)).tolist():
                times[way].append(seconds(way, single if way == ONE else many))
    return times


def _seed(case: str, threads: int, ends: contextlib.ExitStack) -> Seed:
    """Return a seed that ends with the block."""
    seed = Seed(case, threads)
    ends.callback(seed.end)
    return seed


def main() -> None:
    """Measure all cases and print a table for each."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=processors, help="how many at once; default: one a processor")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each way")
    parser.add_argument("--work", choices=list(CASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work)
        return
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"{args.seeds} seeds, {processors} processors, {args.rounds} rounds{load}")
    for case, (make, updates) in CASES.items():
        if make is not packed and importlib.util.find_spec("torch") is None:
            continue
        times = measure(case, args.seeds, processors, args.rounds)
        print(f"\n{case}: ms until each seed has taken one, median (least); time of one thread each as 1")
        for way, found in times.items():
            ratio = statistics.median(t / one for t, one in zip(found, times[ONE], strict=True))
            least, middle = (1e3 * f(found) / updates for f in (min, statistics.median))
            print(f"  {way:28}{middle:8.3f} ({least:.3f}){ratio:8.2f}")


if __name__ == "__main__":
    main()
