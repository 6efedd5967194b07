"""What tests with a stand-in for the CUDA driver share: what it has noted, and the answers to launches.

A launch is answered by the reference's arithmetic, or where arrays are in several formats, by the C kernels.
`conftest.py` builds the driver from ``stand_in_driver.c``, and
runs such tests in a process that finds it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastadam import backends
from fastadam.backends.cuda import general_kernels, launches, norm_kernels, zero_kernel
from fastadam.backends.cuda import kernels as cuda_kernels
from fastadam.backends.cuda.eights import EIGHT
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import AVERAGE, BLOCK, MEASURES, MOMENTS, ROLES, ROW, SPAN, TAKEN, TOTAL
from fastadam.step.after import After, Averaging
from fastadam.step.counters import counters_in
from fastadam.step.norm import Norm, add_blocks
from fastadam.step.plan import Plan
from fastadam.step.variants import variant_of
from tests.support import eager as reference

driver = ctypes.CDLL("libcuda.so.1")
driver.stand_in_log.restype = ctypes.c_char_p
FIELDS = (*ROLES, "size", "vectors", "scale")


def log() -> list[str]:
    """Return the calls since the last time."""
    return bytes(driver.stand_in_log()).decode().splitlines()


def values(pointers: Any, types: list[Any]) -> list[Any]:
    return [kind.from_address(pointers[i]).value for i, kind in enumerate(types)]


def at(place: int, n: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Return memory of the device, which is the host's, as an array over it."""
    return np.frombuffer((ctypes.c_char * (n * dtype.itemsize)).from_address(place), dtype)


def answer_squares(code: int, blocks: int, *words: int) -> None:
    runs, n_runs, n_blocks, totals, n_totals = words
    number_format = FORMATS[code]
    found = 0
    for grad, size, first_block in at(runs, n_runs, norm_kernels.RUN).tolist():
        assert first_block == found
        numbers = at(grad, size, number_format.stored).astype(number_format.compute)
        padded = np.concatenate([numbers, np.zeros(-size % BLOCK, numbers.dtype)]).reshape(-1, BLOCK)
        for i, block in enumerate(padded):
            add_blocks(at(totals, n_totals, TOTAL.dtype)[(found + i) % n_totals].reshape(()), block[None])
        found += len(padded)
    assert n_blocks == found
    assert blocks == -(-n_blocks // norm_kernels.AT_ONCE)


def answer_root(totals: int, n_totals: int, result: int, divisor: float, max_norm: float) -> None:
    norm = Norm()
    norm.block["wanted"], norm.block["divisor"], norm.block["max_norm"] = MEASURES, divisor, max_norm
    norm.reduce([at(totals, n_totals, TOTAL.dtype)])
    scale = norm.block["scale"]
    at(result, 1, norm_kernels.RESULT)[0] = (norm.value, scale, np.float32(scale))


def answer_zeros(blocks: int, place: int, n_runs: int) -> None:
    found = 0
    for start, nbytes, first_block in at(place, n_runs, zero_kernel.RUN).tolist():
        assert first_block == found
        assert nbytes > 0
        at(start, nbytes, np.dtype(np.uint8))[...] = 0
        found += -(-nbytes // zero_kernel.BYTES_OF_BLOCK)
    assert blocks == found


def move_averages(number_format: Any, span: dict[str, Any], weight: float) -> None:
    params = reference.widen(at(span["param"], span["size"], number_format.stored), number_format)
    emas = at(span[AVERAGE], span["size"], number_format.compute)
    narrowed = number_format.compute.type(weight)
    emas[...] = params if narrowed == 1 else emas + narrowed * (params - emas)


def answer_general(
    number: int, which: int, blocks: int, place: int, n: int, rows: int, scale: int, keys: int
) -> None:
    real, averages = variant_of(number).compute, which == launches.AVERAGES
    table = at(place, n, general_kernels.GENERAL_TABLE)
    spans = np.zeros(n, SPAN.dtype)
    for name in set(table.dtype.names or ()) & set(SPAN.dtype.names or ()):
        spans[name] = table[name]
    of_block = cuda_kernels.BLOCK * EIGHT
    assert table["first_block"].tolist() == [0, *np.cumsum(-(-table["size"] // of_block)).tolist()[:-1]]
    assert blocks == (-(-table["size"] // of_block)).sum()
    n_rows, columns = int(spans["row"].max()) + 1, cuda_kernels.N_COEFFICIENTS + averages
    steps = np.zeros(n_rows, np.int64)
    choices = counters_in(steps), counters_in(steps[:0]), [backends.load("c")], 1, True
    after = After(Averaging(0.5 if averages else None))
    plan = Plan(spans, np.full(n, number), *choices, after=after)  # whose rows are taken as they are
    scalars = at(rows, n_rows * columns, real).reshape(n_rows, columns).astype(np.float64)
    plan.rows.view(np.float64).reshape(n_rows, -1)[...] = scalars[:, : cuda_kernels.N_COEFFICIENTS]
    if scale:
        plan.rows["grad_scale"] = plan.rows["grad_scale"].astype(real) * at(scale, 1, real)[0]
    if averages:
        plan.ema_weights[...] = scalars[:, -1]
    plan.random_keys[...] = at(keys, n_rows, np.dtype(np.int64))
    assert plan.take() == TAKEN


KERNELS: dict[bytes, tuple[int, int]] = {}  # the variant of each kernel by its name


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint64))
def launch(name: bytes, blocks: int, threads: int, pointers: Any) -> None:
    number, which = KERNELS[name]
    if which == launches.SQUARES:
        answer_squares(number, blocks, *values(pointers, [ctypes.c_int64] * 5))
        return
    if which == launches.ROOT:
        answer_root(*values(pointers, [ctypes.c_int64] * 3 + [ctypes.c_double] * 2))
        return
    if which == launches.ZEROS:
        answer_zeros(blocks, *values(pointers, [ctypes.c_int64] * 2))
        return
    variant = variant_of(number)
    if general_kernels.is_general(variant):
        answer_general(number, which, blocks, *values(pointers, [ctypes.c_int64] * general_kernels.N_WORDS))
        return
    number_format = cuda_kernels.format_of(variant)
    real: Any = ctypes.c_float if variant.compute == np.float32 else ctypes.c_double
    if which == launches.FLAT:
        found = values(pointers, [ctypes.c_int64] * len(FIELDS) + [real] * cuda_kernels.N_COEFFICIENTS)
        spans = [dict(zip(FIELDS, found, strict=False), row=found[len(FIELDS) :])]
    else:
        place, n, rows, scale = values(pointers, [ctypes.c_int64] * 4)
        averages = which == launches.AVERAGES
        entries = cuda_kernels.AVERAGES_TABLE if averages else cuda_kernels.TABLE
        table = np.frombuffer(ctypes.string_at(place, n * entries.itemsize), entries)
        spans = [
            {field: entry[field].item() for field in entries.names or () if field != "first_block"}
            for entry in table
        ]
        n_scalars = cuda_kernels.N_COEFFICIENTS + averages
        for span in spans:
            span["scale"] = scale
            span["row"] = list(
                (real * n_scalars).from_address(rows + span["row"] * n_scalars * ctypes.sizeof(real))
            )
    needed = 0
    for span in spans:
        lanes = cuda_kernels.width(number_format)
        used = span["vectors"] * lanes
        assert used <= span["size"]
        looked_at = ("param",) if variant.idle else ("param", "grad", *MOMENTS[:2])
        assert not span["vectors"] or not any(span[field] % 16 for field in (*looked_at, AVERAGE) if field in span)
        needed += -(-(span["vectors"] + span["size"] - used) // threads)
        with np.errstate(all="ignore"):
            row = np.array(tuple(span["row"][: cuda_kernels.N_COEFFICIENTS]), ROW.dtype)
            if span["scale"]:
                row["grad_scale"] *= real.from_address(span["scale"]).value
            if not variant.idle:
                reference.step_span(
                    variant, np.array(tuple(span[f] for f in FIELDS[:-2]), [(f, int) for f in FIELDS[:-2]]), row
                )
            if which == launches.AVERAGES:
                move_averages(number_format, span, span["row"][-1])
    assert blocks == needed


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Collect what there is of it now, and none meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Answer launches meanwhile; the driver is as it was at first, before and after.

    What other tests have left is freed before, and what this one leaves only after it: freeing calls the driver.
    """
    compiled = launches.compile_kernel

    def noted(number: int, which: int, capability: tuple[int, int]) -> tuple[str, str]:
        ptx, name = compiled(number, which, capability)
        KERNELS[name.encode()] = number, which
        return ptx, name

    with pytest.MonkeyPatch.context() as patch, no_garbage():
        patch.setattr(launches, "compile_kernel", noted)
        driver.stand_in_set_callback(launch)
        driver.stand_in_set_pending(0)
        driver.stand_in_set_memory(ctypes.c_size_t(1 << 40))
        log()
        yield
        driver.stand_in_set_memory(ctypes.c_size_t(1 << 40))
        driver.stand_in_set_pending(0)
