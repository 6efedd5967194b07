"""What is around a step in a training loop: clipping, and averages of the weights. Cases of benchmarks/quick.py.

Gradients are there, and clipped in each step: for those who write them, the limit falls from step to step.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fastadam
from benchmarks import interleaved
from fastadam.cli import shapes

MAX_NORM = 0.5
DECAY = 0.999


class Bar(NamedTuple):
    """How many times as fast as `base` a contender has to be; ``{}`` stands for each backend."""

    name: str
    base: str
    least: float


class Case(NamedTuple):
    """A set of shapes, how often to repeat, and what is asked for."""

    title: str
    shapes: Callable[[], shapes.Shapes]
    rounds: int
    in_a_row: int
    bars: list[Bar]


def _face(least: float) -> Bar:
    return Bar("torch face {}: clip, step", "torch fused: clip, step", least)


def _packed(most: float) -> Bar:
    return Bar("packed {}: clip, step", "packed {}: step", 1 / most)


def _clip(least: float) -> Bar:
    return Bar("fastadam: clip", "torch: clip", least)


def _average(least: float) -> Bar:
    return Bar("torch face {}: step, average", "torch face {}: step; AveragedModel", least)


CASES = {
    "ppo-loop": Case("actor + critic", shapes.ppo_pair, 200, 5, [_face(10), _packed(1.6), _clip(8), _average(2)]),
    "mlp-loop": Case("784-256-256-10", lambda: shapes.mlp(784, 256, 256, 10), 100, 3, [_face(3), _average(2)]),
    "tiny-loop": Case("3,000 tensors", shapes.tiny_tensors, 20, 2, [_face(14), _clip(5), _average(2)]),
    "1e7-loop": Case(
        "10,000,000 in one tensor",
        lambda: [(10**7,)],
        30,
        1,
        [
            _face(1.5),
            _packed(1.35),
            _clip(1.5),
            Bar("packed {}: step, average", "packed {}: step", 1 / 1.35),
            _average(1.1),  # 36 bytes for each number instead of 40: memory allows no more
        ],
    ),
    "gpt2-loop": Case("GPT-2 small, 148 tensors", shapes.gpt2_small, 10, 1, [_face(1.25)]),
}


def report(name: str, backends: list[fastadam.Backend]) -> bool:
    """Print one case; return whether its bars are met."""
    case = CASES[name]
    bars = [
        Bar(bar.name.format(backend), bar.base.format(backend), bar.least)
        for bar in case.bars
        for backend in (backends if "{}" in bar.name else ["c"])
    ]
    names = dict.fromkeys(itertools.chain.from_iterable((bar.base, bar.name) for bar in bars))
    steps = {each: make(each, case.shapes()) for each in names}
    times = interleaved.run(steps, case.rounds, lambda _: case.in_a_row, warm=case.in_a_row > 1)
    print(f"\nThe loop around a step, {case.title}")
    for each, own in times.items():
        print(f"  {each:36} {statistics.median(own) * 1e6:12.1f} us")
    met = True
    for bar in bars:
        found = interleaved.ratio(times, bar.base, bar.name)
        met &= found >= bar.least
        said = f"{bar.least:g} times as fast" if bar.least >= 1 else f"at most {1 / bar.least:g} times as long"
        shown = found if bar.least >= 1 else 1 / found
        print(f"  {bar.name} / {bar.base}: {shown:.2f} ({said}) {'met' if found >= bar.least else 'MISSED'}")
    return met


def make(name: str, sizes: shapes.Shapes) -> Callable[[], object]:
    """Return the step of a contender, over parameters and gradients of its own."""
    rng = np.random.default_rng(0)
    params = [np.full(size, 0.5, np.float32) for size in sizes]
    grads = [rng.standard_normal(size, np.float32) for size in sizes]
    who, _, what = name.partition(": ")
    face, _, backend = who.rpartition(" ")
    if face == "packed":
        return _packed_step(params, grads, backend, what)
    return _torch_step(params, grads, face or who, backend, what)


def _packed_step(params: Any, grads: Any, backend: Any, what: str) -> Callable[[], object]:
    flat = fastadam.pack(params)
    for view, grad in zip(flat.grad_views, grads, strict=True):
        view[...] = grad
    settings: dict[str, Any] = {"max_grad_norm": MAX_NORM} if "clip" in what else {}
    if "average" in what:
        settings["ema_decay"] = DECAY
    return fastadam.Adam(flat, backend=backend, **settings).step


def _torch_step(params: Any, grads: Any, face: str, backend: str, what: str) -> Callable[[], object]:
    import torch

    import fastadam.torch

    tensors = [torch.nn.Parameter(torch.from_numpy(each)) for each in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    limits = _falling()
    if what == "clip":
        clip = fastadam.torch.clip_grad_norm_ if face == "fastadam" else torch.nn.utils.clip_grad_norm_
        return lambda: clip(tensors, next(limits))
    if face == "torch":
        optimizer = torch.optim.Adam(tensors, fused=True)

        def clip_and_step() -> None:
            torch.nn.utils.clip_grad_norm_(tensors, next(limits))
            optimizer.step()

        return clip_and_step
    settings: dict[str, Any] = {"max_grad_norm": MAX_NORM} if "clip" in what else {}
    if "average" in what:
        settings["ema_decay"] = DECAY
    ours = fastadam.torch.Adam(tensors, **settings)
    ours.backend = backend  # type: ignore[assignment]
    if "AveragedModel" not in what:
        return ours.step
    swa = torch.optim.swa_utils
    model = torch.nn.ParameterList(tensors)
    averaged = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(DECAY))

    def step_and_average() -> None:
        ours.step()
        averaged.update_parameters(model)

    return step_and_average


def _falling() -> Iterator[float]:
    return (MAX_NORM * 0.999**i for i in itertools.count())
