"""Steps whose results are known: the same bits on every processor, in every byte order and word size.

``python -m tests.platforms.golden`` takes them with each backend that is there, or with those that are named after
it, and says which bits differ. It needs NumPy and fastadam alone, so that it runs on an emulated machine
(tests/platforms/emulated.py); with safetensors it also goes on from a checkpoint that a little-endian machine
wrote.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastadam
from fastadam import backends
from fastadam.backends import c
from fastadam.memory.arrays import address
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import MOMENTS, SPAN
from fastadam.step.coefficients import Coefficients, varying
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from tests.support.bits import bits

HALF_WAY = Path(__file__).with_name("half_way.safetensors")
SIZE = 1003
OPTIONS: list[dict[str, Any]] = [
    {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled, "amsgrad": amsgrad, "maximize": amsgrad}
    for weight_decay, decoupled in ((0.0, False), (0.01, False), (0.01, True))
    for amsgrad in (False, True)
]
EVERY_OPTION: list[dict[str, Any]] = [
    {"betas": (0.875, 0.96875), **options, "maximize": maximize}
    for options in OPTIONS
    for maximize in (False, True)
]
# First digits of SHA-256 over little-endian bits. A change here is a change of bits: see "Numerics" in
# CHANGELOG.md.
STEPS = {
    "float32": "bb7661d07e9ce376",
    "float64": "4d90c060c81c3235",
    "bfloat16": "73f7f09d3986a972",
    "float16": "ca8e495efa847d46",
    "complex64": "fba5e5cc76bf3156",
    "complex128": "d37c581d1fcdc2c1",
    "resumed": "f0017809ec441afc",
}
# The scalars of 3,006 steps.
COEFFICIENTS = "cf2026c87449bb33"


def digest(arrays: list[np.ndarray]) -> str:
    """Return a hash of the numbers' bits that depends neither on byte order nor on what NaNs carry."""
    found = hashlib.sha256()
    for array in arrays:
        patterns = bits(array)
        found.update(patterns.astype(patterns.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()[:16]


def numbers(dtype: Any, seed: int, size: int = SIZE) -> np.ndarray:
    """Return numbers of many magnitudes, made by integer and exact arithmetic alone, special ones at the end."""
    if np.dtype(dtype).kind == "c":
        return numbers(np.empty(0, dtype).real.dtype, seed, 2 * size).view(dtype)
    mixed = np.arange(1, size + 1, dtype=np.uint64) + np.uint64(seed << 32)
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
        (31, 1),
    ):  # Steele et al., SplitMix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mantissa = (mixed >> np.uint64(11)).astype(np.int64) - (1 << 52)
    exponent = (mixed & np.uint64(31)).astype(np.int32) - 20
    array = np.ldexp(mantissa.astype(np.float64), exponent - 52).astype(dtype)
    info = np.finfo(dtype)
    special = [0.0, -0.0, info.tiny, -info.tiny / 4, info.smallest_subnormal, info.max, np.inf, -np.inf, np.nan]
    if size > len(special):
        array[-len(special) :] = np.roll(np.array(special, dtype), seed)
    return array


def coefficients() -> str:
    """Return the hash of the scalars of many steps, as Python computes them."""
    rows = [
        varying(Coefficients(Hyperparameters(lr=1e-3, betas=betas)).rates, step)[:4]  # all that the step decides
        for betas in ((0.9, 0.999), (0.0, 0.99), (0.95, 1 - 1e-9))
        for step in (*range(1, 1001), 10**6, 10**9)
    ]
    return digest([np.array(rows)])


def step_arrays(dtype: Any, backend: str, **choices: Any) -> str:
    """Return the hash of parameters and moments after some steps with each of `OPTIONS`.

    Complex numbers, which are pairs of reals for every kernel, take `EVERY_OPTION`.
    """
    results = []
    for options in EVERY_OPTION if dtype.kind == "c" else OPTIONS:
        cut = SIZE // 3
        params = [numbers(dtype, 0)[:cut].copy(), numbers(dtype, 0)[cut:].copy()]
        optimizer = fastadam.Adam(params, lr=0.1, **options, backend=backend, **choices)
        for seed in range(1, 10):
            grad = numbers(dtype, seed)
            optimizer.step([grad[:cut], grad[cut:]])
        states = [optimizer.state[i] for i in range(2)]
        results += params + [state[name] for state in states for name in MOMENTS if name in state]
    return digest(results)


def step_halves(name: str, backend: str) -> str:
    """Return the hash for a format that NumPy arrays are not stepped in, through the plan itself."""
    results = []
    number_format = next(each for each in FORMATS if each.name == name)
    for options in OPTIONS:
        hyper = Hyperparameters(lr=0.1, **options)

        def make(seed: int) -> np.ndarray:
            array = numbers(np.float16, seed)
            return (
                array if name == "float16" else (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            )

        param, moments = make(0), [np.zeros(SIZE, number_format.stored) for _ in MOMENTS]
        span = np.zeros(1, SPAN.dtype)
        span["param"], span["size"] = address(param), SIZE
        for moment, array in zip(MOMENTS, moments, strict=True):
            span[moment] = address(array)
        variants = variants_of(np.array([number_format.code]), flags_of(hyper))
        steps = np.zeros(1, np.int64)
        taken = counters_in(steps)
        plan = Plan(span, variants, taken, taken, [backends.choose(backend)[1]], 1, True)
        plan.write_options([Coefficients(hyper)])
        for step in range(1, 10):
            grad = make(step)
            plan.spans["grad"] = address(grad)
            plan.take()
        for array in (param, *moments):
            if name == "bfloat16":  # so that NaNs count as the same one
                array = (array.astype(np.uint32) << 16).view(np.float32)
            results.append(array)
    return digest(results)


def half_way(backend: str) -> fastadam.Adam:
    """Return an optimizer over three small arrays as it is before its first step."""
    arrays = {"single": numbers(np.float32, 0, 37), "double": numbers(np.float64, 1, 9)}
    arrays["complex"] = numbers(np.float32, 2, 8).view(np.complex64)
    for array in arrays.values():
        array[~np.isfinite(array)] = 1
    return fastadam.Adam(arrays, lr=0.1, amsgrad=True, weight_decay=0.01, backend=backend)


def step_half_way(optimizer: fastadam.Adam, seeds: range) -> str:
    """Take steps with the gradients of some seeds, and return the hash of all numbers."""
    for seed in seeds:
        optimizer.step(
            {
                "single": numbers(np.float32, seed, 37),
                "double": numbers(np.float64, seed, 9),
                "complex": numbers(np.float32, seed, 8).view(np.complex64),
            }
        )
    results = [array for group in optimizer.param_groups for array in group["params"]]
    return digest(results + [optimizer.state[i][name] for i in range(3) for name in MOMENTS])


def resume(backend: str) -> str:
    """Return the hash after going on from the checkpoint that lies beside this module."""
    optimizer = half_way(backend)
    fastadam.load(HALF_WAY, optimizer)
    return step_half_way(optimizer, range(13, 18))


def takes(what: str, backend: str, **choices: Any) -> str:
    """Return the hash that has the name `what` in `STEPS`."""
    if what == "resumed":
        return resume(backend)
    if what in ("bfloat16", "float16"):
        return step_halves(what, backend)
    return step_arrays(np.dtype(what), backend, **choices)


def cases(chosen: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what can be compared here: a name in `STEPS` and a backend, one of those chosen if any are."""
    for what in STEPS:
        if what == "resumed" and importlib.util.find_spec("safetensors") is None:
            continue
        for name, state in fastadam.available_backends().items():
            if state == "available" and (not chosen or name in chosen):
                yield what, name


def main() -> int:
    """Compare everything; return the number of hashes that differ."""
    word = 8 * math.ceil(math.log(sys.maxsize, 256))
    print(
        f"{platform.machine()}, {word} bits, {sys.byteorder}-endian, Python {platform.python_version()},", end=" "
    )
    kernels = " ".join(c.instruction_sets()) or "none"
    print(f"NumPy {np.__version__}, {' '.join(platform.libc_ver())}, C kernels: {kernels}")
    wrong = 0

    def compare(name: str, found: str, expected: str) -> None:
        nonlocal wrong
        wrong += found != expected
        print(f"  {name:29} {'golden' if found == expected else f'{found} instead of {expected}'}", flush=True)

    compare("coefficients", coefficients(), COEFFICIENTS)
    for what, backend in cases(sys.argv[1:]):
        sets = c.instruction_sets() if backend == "c" else ("",)
        for instruction_set in sets:
            if instruction_set:
                c.use_instruction_set(instruction_set)
            compare(f"{what:12} {backend:7} {instruction_set}", takes(what, backend), STEPS[what])
    print("same bits" if not wrong else f"{wrong} results have other bits")
    return wrong


if __name__ == "__main__":
    sys.exit(main() > 0)
