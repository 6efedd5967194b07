"""Parameters in compact formats in memory, for plans, and the steps of the oracle over the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam import backends
from fastadam.memory.arrays import address
from fastadam.memory.formats import ALL_FORMATS
from fastadam.memory.structs import (
    AVERAGE,
    MASTER,
    ROLES,
    SCALE_BLOCK,
    SCALES,
    SPAN,
)
from fastadam.step.after import After
from fastadam.step.coefficients import Coefficients, Row
from fastadam.step.counters import counters_in
from fastadam.step.element import make_element
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan
from fastadam.step.rounding import make_flush, make_maximum
from fastadam.step.variants import flags_of, variants_of
from tests.support.compact import Kept, random_bits
from tests.support.plans import bits_of

BY_NAME = {each.name: each for each in ALL_FORMATS}
# Of the roles, by what they are for.
COMBINATIONS = {
    "bfloat16 state": "float32 float32 bfloat16_stochastic bfloat16_stochastic bfloat16",
    "int8 state": "float32 float32 int8 root8 root8",
    "int8 state of float64": "float64 float64 int8 root8 root8",
    "bfloat16 state of float64": "float64 float64 bfloat16_stochastic bfloat16_stochastic bfloat16",
    "float32 state of float64": "float64 float64 float32 float32 float32",
    "float32 with bfloat16 gradients": "float32 bfloat16 int8 root8 root8",
    "stochastic bfloat16": "bfloat16_stochastic bfloat16 bfloat16_stochastic bfloat16_stochastic bfloat16",
    "stochastic bfloat16 with int8 state": "bfloat16_stochastic bfloat16 int8 root8 root8",
    "stochastic bfloat16 with float32 state": "bfloat16_stochastic bfloat16 float32 float32 float32",
    "stochastic float16": "float16_stochastic float16 float32 float32 float32",
    "stochastic bfloat16 with float32 gradients": "bfloat16_stochastic float32 int8 root8 root8",
    "bfloat16 with masters": "bfloat16_master bfloat16 int8 root8 root8",
    "bfloat16 with masters and float32 state": "bfloat16_master float32 float32 float32 float32",
    "bfloat16 with masters and bfloat16 state": (
        "bfloat16_master bfloat16 bfloat16_stochastic bfloat16_stochastic bfloat16"
    ),
    "float16 with masters": "float16_master float16 bfloat16_stochastic bfloat16_stochastic bfloat16",
}
ODD = (np.inf, -np.inf, np.nan, 1e30, -1e-30, 0.0)


def hard_numbers(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return numbers of which each block has difficulties of its own, as float64."""
    numbers = rng.standard_normal(size).astype(np.float32)
    for low in range(0, size, SCALE_BLOCK):
        block = numbers[low : low + SCALE_BLOCK]
        at, kind = rng.integers(block.size, size=3), rng.integers(9)
        if kind == 0:
            block[at] = np.inf, -np.inf, np.inf
        elif kind == 1:
            block.view(np.uint32)[at] = 0x7FC12345, 0xFFC00001, 0x7FFFFFFF
        elif kind == 2:
            block *= np.float32(1e-40)
        elif kind == 3:
            block[...] = 0
        elif kind == 4:
            block *= np.float32(1e-30)
            block[at] = 1e18
        elif kind == 5:
            block[...] = rng.choice(np.array([0.0, -0.0, 1e-45, -1e-45, 2.0**-126], np.float32), block.size)
        elif kind == 6:
            block[...] = np.nan
        elif kind == 7:
            block *= np.float32(3e38)  # some of it becomes infinite
    return numbers.astype(np.float64)


class Memory:
    """Some parameters in memory, in one combination of formats.

    Parameters
    ----------
    combination : str
        One of `COMBINATIONS`.
    sizes : list of int
        Of the parameters.
    odd : bool, default False
        Whether some gradients are huge, tiny or not finite.
    hard : bool, default False
        Whether all arrays have blocks of such numbers, of which the state is made, too.
    first : int, default 3
        The position of the first one in the optimizer.
    """

    def __init__(
        self, combination: str, sizes: list[int], odd: bool = False, hard: bool = False, first: int = 3
    ) -> None:
        self.first = first
        rng = np.random.default_rng(7)
        self.formats = [BY_NAME[name] for name in COMBINATIONS[combination].split()]
        self.params: list[list[Kept]] = []
        for size in sizes:
            numbers = [rng.standard_normal(size) for _ in ROLES]
            if odd:
                each, where = numbers[ROLES.index("grad")], rng.integers(0, 12, size)
                for i, number in enumerate(ODD):
                    each[where == i] = number
            with np.errstate(all="ignore"):
                if hard:
                    numbers = [hard_numbers(rng, size) for _ in ROLES]
                for positive in numbers[3:]:
                    (np.abs if hard else np.square)(positive, out=positive)
                compute = self.formats[0].compute
                self.params.append(
                    [Kept.of(each, one.astype(compute)) for each, one in zip(self.formats, numbers, strict=True)]
                )
        self.emas = [np.ones(size, self.formats[0].compute) for size in sizes]
        self.steps = np.array([5])

    def spans(self) -> np.ndarray:
        """Return where they are."""
        spans = np.zeros(len(self.params), SPAN.dtype)
        for i, (span, kept) in enumerate(zip(spans, self.params, strict=True)):
            for role, each in zip(ROLES, kept, strict=True):
                span[role] = address(each.stored)
                if each.beside is not None:
                    span[MASTER if role == "param" else SCALES[role]] = address(each.beside)
            span[AVERAGE] = address(self.emas[i])
            span["size"], span["position"] = kept[0].stored.size, self.first + i
        return spans

    def pieces(self, length: int) -> np.ndarray:
        """Return spans of so many elements of a parameter each, and of what is left of it."""
        found = []
        for span, kept in zip(self.spans(), self.params, strict=True):
            for first in range(0, int(span["size"]), length):
                piece = span.copy()
                piece["first"], piece["size"] = first, min(length, span["size"] - first)
                for role, each in zip(ROLES, kept, strict=True):
                    piece[role] += first * each.stored.itemsize
                    if role == "param" and each.beside is not None:
                        piece[MASTER] += first * each.beside.itemsize
                    elif each.beside is not None:
                        piece[SCALES[role]] += first // SCALE_BLOCK * each.beside.itemsize
                found.append(piece)
        return np.array(found, SPAN.dtype)

    def plan(
        self,
        backend: str,
        *hypers: Hyperparameters,
        threads: int = 1,
        after: After | None = None,
        spans: np.ndarray | None = None,
    ) -> Plan:
        """Return the plan of their steps on a backend; the options, and the rows, are for one after the other."""
        spans = self.spans() if spans is None else spans
        codes = np.repeat([[each.code] for each in self.formats], len(spans), axis=1)
        counters = np.repeat(counters_in(self.steps), len(hypers))
        spans["row"] = np.arange(len(spans)) % len(hypers)
        variants = variants_of(codes, flags_of(hypers[0]))
        plan = Plan(spans, variants, counters, counters[:1], [backends.load(backend)], threads, True, after=after)
        plan.write_options([Coefficients(each) for each in hypers])
        return plan

    def oracle(self, hyper: Hyperparameters, row: Any, step: int) -> None:
        """Take a step, with the scalars of a row."""
        compute = self.formats[0].compute
        row = Row._make(compute.type(scalar) for scalar in row.tolist())
        row = row._replace(tiny=row.tiny * np.finfo(compute).smallest_normal)
        flags = {"l2_on": hyper.l2_on, "decoupled_on": hyper.decoupled_on, "amsgrad_on": hyper.amsgrad}
        choices = make_maximum(np.where), make_flush(np.where, np.abs, compute.type(0))
        element = make_element(np.multiply, np.add, np.subtract, np.divide, np.sqrt, *choices, **flags)
        n_roles = len(ROLES) - (not hyper.amsgrad)
        for i, kept in enumerate(self.params):
            size = kept[0].stored.size
            old = [each.read().astype(compute) for each in kept[:n_roles]]
            with np.errstate(all="ignore"):
                new = element(*old, *[None] * (len(ROLES) - n_roles), row)
                for role, numbers in zip([0, 2, 3, 4][: n_roles - 1], new, strict=False):
                    bits = random_bits(hyper.seed, step, self.first + i, role, size)
                    kept[role].write(numbers, np.full(size, 0x8000) if role == 4 else bits)


def compare(ours: Memory, theirs: Memory, what: str) -> None:
    """Fail unless both have the same bits; every NaN of a floating-point dtype counts as the same one."""
    for i, (mine, other) in enumerate(zip(ours.params, theirs.params, strict=True)):
        for role, one, two in zip(ROLES, mine, other, strict=True):
            for name, first, second in (("", one.stored, two.stored), ("beside ", one.beside, two.beside)):
                if first is None or second is None:
                    continue
                if first.dtype.kind == "f":
                    first, second = (bits_of(each, each.dtype.name) for each in (first, second))
                np.testing.assert_array_equal(first, second, f"{what}, {name}{role} {i}")
