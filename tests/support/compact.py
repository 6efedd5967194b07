"""Compact formats, written apart from the library: NumPy over whole arrays, exact integers where it rounds.

`Kept` is one array of a parameter in any format, with what lies beside it; it is widened to what kernels compute
in, and narrowed with given bits at random.
"""

from __future__ import annotations

import numpy as np

from fastadam.memory.formats import ALL_FORMATS, Format
from tests.support.eager import narrow, widen

BLOCK = 64
MASK = 2**64 - 1
BY_NAME = {each.name: each for each in ALL_FORMATS}


def mix(x: int) -> int:
    """Return the finalizer of SplitMix64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def random_bits(seed: int, step: int, position: int, role: int, size: int) -> np.ndarray:
    """Return the 16 random bits of each element of a parameter, as int64."""
    golden = 0x9E3779B97F4A7C15
    key = mix(mix((seed + golden) & MASK) ^ step)
    found = mix((key + (5 * position + role + 1) * golden) & MASK)
    start, stride = found >> 32, found % 2**32 | 1
    return (start + np.arange(size, dtype=np.int64) * stride % 2**32) % 2**32 >> 16


class Kept:
    """One array of a parameter in memory.

    Parameters
    ----------
    number_format : Format
    stored : ndarray
        As it lies in memory.
    beside : ndarray, optional
        Scales, or what masters need.
    """

    def __init__(self, number_format: Format, stored: np.ndarray, beside: np.ndarray | None = None) -> None:
        self.format, self.stored, self.beside = number_format, stored, beside

    @classmethod
    def of(cls, number_format: Format, numbers: np.ndarray) -> Kept:
        """Return numbers as they would be kept, rounded to nearest."""
        n, name = numbers.size, number_format.name
        beside = None
        if name in ("int8", "root8"):
            beside = np.zeros(-(-n // BLOCK), np.float32)
        elif name == "bfloat16_master":
            beside = np.zeros(n, np.int16)
        elif name == "float16_master":
            beside = np.zeros(n, np.float32)
        kept = cls(number_format, np.zeros(n, number_format.stored), beside)
        with np.errstate(all="ignore"):
            kept.write(numbers, np.full(n, 0x8000))
        return kept

    def copy(self) -> Kept:
        """Return a copy."""
        return Kept(self.format, self.stored.copy(), None if self.beside is None else self.beside.copy())

    def read(self) -> np.ndarray:
        """Return the numbers, in float32 or float64."""
        name, stored = self.format.name, self.stored
        if name in ("int8", "root8"):
            return self._read_blocks()
        if name == "bfloat16_master":
            rest = self.beside.astype(np.int64)
            size = stored & 0x7FFF
            rest[(size == 0) & (rest < 0)] = 0
            rest[(size == 0x7F80) & (rest > 0)] = 0
            return ((stored.astype(np.int64) << 16) + rest & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
        if name == "float16_master":
            with np.errstate(over="ignore"):
                own = self.beside.astype(np.float16)
            same = own.view(np.uint16) == stored.view(np.uint16)
            return np.where(same, self.beside, stored.astype(np.float32))
        return widen(stored, BY_NAME[name.removesuffix("_stochastic")])

    def _read_blocks(self) -> np.ndarray:
        scale = np.repeat(self.beside, BLOCK)[: self.stored.size]
        with np.errstate(over="ignore"):
            numbers = self.stored.astype(np.float32) * np.abs(scale)
            if self.format.name == "root8":
                numbers = numbers * numbers
        special = {-128: np.nan, 127: np.inf, -127: -np.inf}
        if self.format.name == "root8":
            special = {255: np.nan, 254: np.inf}
        for code, number in special.items():
            numbers[np.signbit(scale) & (self.stored == code)] = number
        return numbers

    def write(self, numbers: np.ndarray, random: np.ndarray) -> None:
        """Round numbers, of exp_avg_sq as they are, and keep them."""
        name = self.format.name
        if name == "root8":
            numbers = np.sqrt(numbers)
        floats = numbers if self.format.compute == np.float64 else numbers.astype(np.float32)
        bits = np.ascontiguousarray(floats.astype(np.float32)).view(np.uint32).astype(np.int64)
        if name in ("int8", "root8"):
            self._write_blocks(floats, random)
        elif name == "bfloat16_stochastic":
            rounded = (bits + random) >> 16
            self.stored[...] = np.where(np.isnan(floats), 0x7FC0, rounded).astype(np.uint16)
        elif name == "float16_stochastic":
            self.stored.view(np.uint16)[...] = [_float16(*each) for each in zip(floats, random, strict=True)]
        elif name == "bfloat16_master":
            bits = np.where(np.isnan(floats), 0x7FC00000, bits)
            self.stored[...] = ((bits + 0x8000) >> 16).astype(np.uint16)
            self.beside[...] = ((bits + 0x8000) % 65536 - 0x8000).astype(np.int16)
        elif name == "float16_master":
            self.stored[...] = narrow(floats, BY_NAME["float16"])
            self.beside[...] = floats
        else:
            self.stored[...] = narrow(floats, self.format)

    def _write_blocks(self, numbers: np.ndarray, random: np.ndarray) -> None:
        rooted = self.format.name == "root8"
        for block, low in enumerate(range(0, numbers.size, BLOCK)):
            each, bits = numbers[low : low + BLOCK], random[low : low + BLOCK]
            finite = np.isfinite(each)
            largest = np.abs(each[finite]).max(initial=np.float32(0))
            largest = largest if largest >= 2.0**-100 else np.float32(0)
            most = (255 if rooted else 127) if finite.all() else (253 if rooted else 126)
            factor = np.float32(most * 65536 - 4) / largest if largest else np.float32(0)
            codes = np.trunc(np.where(finite, each, np.float32(0)) * factor).astype(np.int64) + bits >> 16
            if rooted:
                codes = np.maximum(codes, 1)
                codes[~finite] = np.where(each[~finite] > 0, 254, 255)
            else:
                codes[~finite] = np.where(np.isnan(each[~finite]), -128, np.where(each[~finite] > 0, 127, -127))
            self.stored[low : low + BLOCK] = codes
            scale = largest / np.float32(most)
            self.beside[block] = scale if finite.all() else -scale


def _float16(number: np.float32, random: int) -> int:
    """Round one number at random, in exact integers."""
    bits = int(np.float32(number).view(np.uint32))
    sign, size = bits >> 16 & 0x8000, bits & 0x7FFFFFFF
    if size > 0x7F800000:
        return sign | 0x7E00
    if size >= 0x47800000:
        return sign | 0x7C00
    if size < 0x38800000:
        units = int(np.float64(np.uint32(size).view(np.float32)) * 2.0**40)
        return sign | units + int(random) >> 16
    return sign | min(size - 0x38000000 + (int(random) >> 3) >> 13, 0x7C00)
