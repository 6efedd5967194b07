"""The norm of all gradients: the same bits whatever computes it, on however many threads and in whatever order.

Each parameter's gradient is a row of blocks of `BLOCK` numbers, the last one filled up with zeros; a complex
number is two. In a block there are `LANES` sums side by side, of float64. Each takes up the squares of one group
of numbers after the other: lane ``l`` those of the numbers ``l``, ``l + LANES``, ... of the group, which are
added up two by two, and then to the sum, whose rounding error is kept in a second sum (Knuth's TwoSum; Ogita,
Rump and Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26, 2005). At the end the lanes are added up
in the same way, each of the first half with one of the second. A group has 4 numbers for each lane in float32,
whose squares are exact in float64, and 2 in float64; so a block's sum is within 2 units of rounding, 2**-53
each, of exact.

The sums of all blocks, and what rounding took off them, are added up *exactly*, as whole numbers (Kulisch, "Very
fast and exact accumulation of products", Computing 91, 2011; Collange et al., "Numerical reproducibility for the
parallel reduction on multi- and many-core architectures", Parallel Computing 49, 2015). So their order does not
matter, nor who has added up which of them. That total is rounded once, then its root is taken: within 2 ulp of
the exact norm.

float64 numbers whose squares are no float64 numbers are scaled before, block by block.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.native import Block, places_of
from fastadam.memory.structs import (
    BLOCK,
    LANES,
    MEASURES,
    NORM,
    REFUSED,
    REFUSES,
    SKIPPED,
    SKIPS,
    TAKEN,
    TOTAL,
    TOTAL_LOWEST,
    TOTAL_WORDS,
)
from fastadam.step.totals import WORD_BITS, WORD_MASK

# What a block has as the norm before one was computed, and where it has to be fetched from a device.
NONE, ON_DEVICE = -1.0, -2.0
# Numbers of a group for each lane.
GROUP = {np.dtype(np.float32): 4, np.dtype(np.float64): 2}
# A block of float64 numbers whose sum of squares is below the first, or not below the second of these, is summed
# up again, times a power of two; the total takes the exponent of its square.
SMALL, LARGE = 2.0**-800, 2.0**900
SCALE_UP, SCALE_DOWN = 2.0**600, 2.0**-600
EXPONENT_UP, EXPONENT_DOWN = -1200, 1200


def make_scale_of(add: Callable[..., Any], divide: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``scale_of(norm, max_norm)`` over a backend's operations on float64 numbers.

    It returns the factor that makes a norm at most `max_norm`; a norm that is NaN gives NaN, as in torch.
    """

    def scale_of(norm: Any, max_norm: Any) -> Any:
        coefficient = 1.0
        if max_norm != math.inf:
            coefficient = divide(max_norm, add(norm, 1e-6))
            if coefficient > 1.0:
                coefficient = 1.0
        return coefficient

    return scale_of


scale_of: Callable[[float, float], float] = make_scale_of(operator.add, operator.truediv)


def root_of(total: int) -> float:
    """Return the root of a total that is not negative, rounded to float64 first.

    Parameters
    ----------
    total : int
        In units of ``2**TOTAL_LOWEST``.
    """
    more = max(total.bit_length() - 62, 0)
    first = total >> more | (total & ((1 << more) - 1) != 0)
    exponent = TOTAL_LOWEST + more
    rounded = float(first)
    if exponent & 1:
        rounded, exponent = rounded * 2, exponent - 1
    try:
        return math.ldexp(math.sqrt(rounded), exponent // 2)
    except OverflowError:
        return math.inf


class Norm:
    """What is wanted of the norm of an optimizer's gradients, and what it was; its plans share it.

    Attributes
    ----------
    block : Block of NORM
        What native code gets the address of.
    found : memoryview of float64, shape (1,)
        The block's norm, which is written to faster so.
    totals : ndarray of TOTAL
        One for each thread.
    fetch : callable
        ``fetch()`` returns the norm where the block says that it is on a device; the host waits for it.
    """

    def __init__(self) -> None:
        self.block = Block(NORM)
        self.block["divisor"] = self.block["coefficient"] = 1.0
        self.block["max_norm"] = math.inf
        self.block["norm"] = NONE
        (at,) = places_of(NORM, "norm")
        self.found: Any = self.block.values.reshape(1).view(np.float64)[at : at + 1].data
        self.fetch: Callable[[], float] = lambda: NONE
        self.totals: Array = np.zeros(0, TOTAL.dtype)
        self.reserve(1)

    def reserve(self, threads: int) -> None:
        """Make room for so many threads."""
        if len(self.totals) < threads:
            totals = np.zeros(threads, TOTAL.dtype)
            self.block.point("totals", totals)
            self.totals = totals

    @property
    def wanted(self) -> int:
        """A sum of MEASURES, SKIPS and REFUSES."""
        return int(self.block["wanted"])

    @property
    def value(self) -> float | None:
        """The norm of the last gradients, divided but not clipped; None where none was computed."""
        if self.found[0] == ON_DEVICE:
            self.found[0] = self.fetch()
        norm: float = self.found[0]
        return None if norm == NONE else norm

    def clear(self) -> None:
        """Let all totals be zero."""
        clear_totals(self.totals)

    def follow(self, other: Norm) -> None:
        """Let gradients be multiplied by what another norm says."""
        for name in ("coefficient", "divisor"):
            self.block[name] = other.block[name]

    def reduce(self, measured: Sequence[Array]) -> int:
        """Compute the norm, and what gradients are multiplied by; return TAKEN, or what stands in the way.

        Parameters
        ----------
        measured : sequence of ndarray of TOTAL
            What squares were added up in: this norm's, or those of the parts of a plan.
        """
        block = self.block
        if self.wanted & MEASURES:
            totals = np.concatenate(measured)
            is_nan, is_infinite = totals["is_nan"].any(), totals["is_infinite"].any()
            if is_nan or is_infinite:
                root = math.nan if is_nan else math.inf
            else:
                words = totals["words"].astype(object).sum(axis=0)
                root = root_of(sum(word << WORD_BITS * k for k, word in enumerate(words.tolist()) if word))
            norm = block["norm"] = root / float(block["divisor"])
            if is_nan or is_infinite:
                if self.wanted & REFUSES:
                    return REFUSED
                if self.wanted & SKIPS:
                    return SKIPPED
            block["coefficient"] = scale_of(norm, float(block["max_norm"]))
        block["scale"] = float(block["coefficient"]) / float(block["divisor"])
        return TAKEN


def clear_totals(totals: Array) -> None:
    """Let totals, an ndarray of TOTAL, be zero."""
    totals[...] = 0
    totals["first"] = TOTAL_WORDS


def add_to_total(total: Array, numbers: Array, exponents: Array) -> None:
    """Add ``numbers * 2**exponents``, finite float64 numbers in the range of a total, to a TOTAL of shape ()."""
    used = numbers != 0
    if not used.any():
        return
    bits, exponents = numbers[used].view(np.int64), exponents[used]
    power, mantissa = bits >> 52 & 0x7FF, bits & (1 << 52) - 1
    mantissa = np.where(power, mantissa | 1 << 52, mantissa)
    mantissa = np.where(bits < 0, -mantissa, mantissa)
    # The lowest bit of the mantissa is this bit of the total.
    bit = np.maximum(power, 1) - 1075 + exponents - TOTAL_LOWEST
    k, shift = bit >> 5, bit & 31
    low, high = (mantissa & 0xFFFFFFFF) << shift, (mantissa >> 32) << shift
    words = total["words"]
    np.add.at(words, k, low & 0xFFFFFFFF)
    np.add.at(words, k + 1, (low >> 32 & 0xFFFFFFFF) + (high & 0xFFFFFFFF))
    np.add.at(words, k + 2, high >> 32)
    total["first"] = min(int(total["first"]), int(k.min()))
    total["end"] = max(int(total["end"]), int(k.max()) + 3)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _sums_of_blocks(numbers: Array, group: int) -> tuple[Array, Array]:
    """Return the sums of squares of blocks, float64 of shape (n, BLOCK), and what rounding took off them."""
    squares = (numbers * numbers).reshape(len(numbers), BLOCK // (group * LANES), group, LANES)
    while squares.shape[2] > 1:
        squares = squares[:, :, 0::2] + squares[:, :, 1::2]
    sums, rests = np.zeros((2, len(numbers), LANES))
    for i in range(squares.shape[1]):
        sums, rest = _two_sum(sums, squares[:, i, 0])
        rests = rests + rest
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums, rest = _two_sum(sums[:, :half], sums[:, half:])
        rests = (rests[:, :half] + rests[:, half:]) + rest
    return sums[:, 0], rests[:, 0]


def add_blocks(total: Array, blocks: Array) -> None:
    """Add the squares of blocks to a total, in NumPy.

    Parameters
    ----------
    total : ndarray of TOTAL, shape ()
        Written to.
    blocks : ndarray of float32 or float64, shape (n, BLOCK)
        The last one of a parameter filled up with zeros.
    """
    group = GROUP[blocks.dtype]
    numbers = blocks.astype(np.float64)
    sums, rests = _sums_of_blocks(numbers, group)
    exponents = np.zeros(len(blocks), np.int64)
    if blocks.dtype == np.float64:
        for which, factor, exponent in (
            (sums < SMALL, SCALE_UP, EXPONENT_UP),
            (~(sums < LARGE), SCALE_DOWN, EXPONENT_DOWN),
        ):
            if which.any():
                sums[which], rests[which] = _sums_of_blocks(numbers[which] * factor, group)
                exponents[which] = exponent
    finite = sums < math.inf
    if not finite.all():
        total["is_nan"] |= np.isnan(numbers).any()
        total["is_infinite"] |= np.isinf(numbers).any()
    add_to_total(total, sums[finite], exponents[finite])
    add_to_total(total, rests[finite], exponents[finite])


def total_of(totals: Array) -> Array:
    """Return the sum of totals, with 32 bits in each word but the last, so that sums of many can be added up.

    Parameters
    ----------
    totals : ndarray of TOTAL

    Returns
    -------
    ndarray of int64, shape (TOTAL_WORDS + 2,)
        The words, then how many have met a NaN, and how many an infinity. `take_total` takes it.
    """
    found: Array = np.zeros(TOTAL_WORDS + 2, np.int64)
    found[:TOTAL_WORDS] = carried(totals["words"].sum(axis=0))
    found[TOTAL_WORDS:] = totals["is_nan"].sum(), totals["is_infinite"].sum()
    return found


def take_total(totals: Array, found: Array) -> None:
    """Let totals be, all together, what `total_of` has returned, or the sum of several of these."""
    clear_totals(totals)
    totals["words"][0] = carried(found[:TOTAL_WORDS])
    totals["is_nan"][0], totals["is_infinite"][0] = (found[TOTAL_WORDS:] > 0).tolist()
    totals["first"][0], totals["end"][0] = 0, TOTAL_WORDS


def carried(words: Array) -> Array:
    """Return the words of a total, int64, with 32 bits in each but the last."""
    found = words.copy()
    while (over := found[:-1] >> WORD_BITS).any():
        found[:-1] &= WORD_MASK
        found[1:] += over
    return found
