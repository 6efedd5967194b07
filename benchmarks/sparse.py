"""Steps over the rows of sparse gradients: ``python -m benchmarks.sparse``.

A table of a million rows of 64 float32 numbers (or as many as the command line says), of which a gradient has so
many random rows: `fastadam.torch.Adam` with sparse="lazy", `torch.optim.SparseAdam`, and the step over the whole
table, in turns. Then an embedding beside a small network: one optimizer of ours, against SparseAdam for the one
and torch's Adam, the default and the fused one, for the other. The bars, for 1,000 rows: three times as fast as
SparseAdam, a hundred times as fast as the whole table; and faster than two optimizers of torch.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator

import torch

import fastadam.torch
from benchmarks import interleaved
from benchmarks.rows import show

OURS, PEER, DENSE = "fastadam, sparse", "SparseAdam", "fastadam, the whole table"
BARS = {1_000: {PEER: 3.0, DENSE: 100.0}}
TWO, TWO_FUSED = "SparseAdam and Adam", "SparseAdam and fused Adam"
WORDS, IN_A_BATCH = 100_000, 100
BATCHES = 8  # of rows, so that not the same ones are in the cache


def gradients(n_rows: int, width: int, touched: int) -> list[torch.Tensor]:
    """Return gradients with random rows, some of which come twice."""
    torch.manual_seed(touched)
    shape = (n_rows, width)
    indices = [torch.randint(n_rows, (1, touched)) for _ in range(BATCHES)]
    return [
        torch.sparse_coo_tensor(each, torch.randn(touched, width), shape, check_invariants=True)
        for each in indices
    ]


def stepping(optimizer: torch.optim.Optimizer, grads: list[torch.Tensor]) -> Callable[[], object]:
    """Return what takes a step with the next gradient."""
    (param,) = optimizer.param_groups[0]["params"]
    in_turn = itertools.cycle(grads)

    def step() -> None:
        param.grad = next(in_turn)
        optimizer.step()

    return step


def model_steps() -> dict[str, Callable[[], object]]:
    """Return the steps over an embedding and a network of three layers, with the gradients of the next batch."""
    makers: dict[str, Callable[[list[torch.nn.Parameter], list[torch.nn.Parameter]], list[torch.optim.Optimizer]]]
    makers = {
        OURS: lambda words, rest: [fastadam.torch.Adam([*words, *rest], sparse="lazy")],
        TWO: lambda words, rest: [torch.optim.SparseAdam(words), torch.optim.Adam(rest)],
        TWO_FUSED: lambda words, rest: [torch.optim.SparseAdam(words), torch.optim.Adam(rest, fused=True)],
    }
    steps: dict[str, Callable[[], object]] = {}
    for name, make in makers.items():
        torch.manual_seed(0)
        words = torch.nn.Embedding(WORDS, 64, sparse=True)
        layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU()]
        rest = torch.nn.Sequential(*layers, torch.nn.Linear(64, 5))
        params = [*words.parameters(), *rest.parameters()]
        batches = []
        for _ in range(BATCHES):
            rest(words(torch.randint(WORDS, (IN_A_BATCH,)))).square().sum().backward()
            batches.append([param.grad for param in params])
            for param in params:
                param.grad = None
        optimizers = make(list(words.parameters()), list(rest.parameters()))
        steps[name] = functools.partial(step_all, optimizers, params, itertools.cycle(batches))
    return steps


def step_all(
    optimizers: list[torch.optim.Optimizer],
    params: list[torch.nn.Parameter],
    batches: Iterator[list[torch.Tensor | None]],
) -> None:
    """Take a step with the gradients of the next batch."""
    for param, grad in zip(params, next(batches), strict=True):
        param.grad = grad
    for optimizer in optimizers:
        optimizer.step()


def main() -> None:
    """Compare, and print the times, the ratios and what came of the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="of the table")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--touched", type=int, nargs="+", default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    shape = arguments.rows, arguments.width
    makers = {
        OURS: functools.partial(fastadam.torch.Adam, sparse="lazy"),
        PEER: torch.optim.SparseAdam,
        DENSE: fastadam.torch.Adam,
    }
    optimizers = {name: make([torch.zeros(shape, requires_grad=True)]) for name, make in makers.items()}
    for touched in arguments.touched:
        sparse = gradients(*shape, touched)
        grads = {OURS: sparse, PEER: sparse, DENSE: [torch.randn(shape)]}
        steps = {name: stepping(optimizer, grads[name]) for name, optimizer in optimizers.items()}
        times = interleaved.run(steps, arguments.rounds, lambda name: 1 if name == DENSE else 4, warm=True)
        print(f"{touched:,} rows of {shape[0]:,}, each of {shape[1]} numbers")
        show(times, BARS.get(touched, {}))
    print(f"an embedding of {WORDS:,} x 64, {IN_A_BATCH} words in a batch, and three layers of 64")
    show(interleaved.run(model_steps(), arguments.rounds, lambda name: 32, warm=True), {TWO: 1.0, TWO_FUSED: 1.0})


if __name__ == "__main__":
    main()
