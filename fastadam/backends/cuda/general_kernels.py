"""The kernels of spans whose arrays are in several formats, or in compact ones. Importing it imports numba-cuda.

There is one for each combination of formats, options and compute dtype, compiled when it is needed. It reads a
table of spans, as *table* of `fastadam.backends.cuda.kernels` does. A thread steps eight numbers, one after the
other; eight threads beside each other step those that share a scale, and tell each other how large theirs are.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from fastadam.backends.cuda.blocks import BLOCKS, THREADS_PER_SCALE, joined_of_eight
from fastadam.backends.cuda.codecs import make_codec
from fastadam.backends.cuda.device_functions import (
    FLOAT32,
    FLOAT64,
    LONG,
    PAIR,
    WORD,
    compiled_apart,
    make_find,
    make_load,
    on_device,
)
from fastadam.backends.cuda.eights import EIGHT, eight_of, make_load_eight, make_store_eight
from fastadam.backends.cuda.kernels import (
    AVERAGES_TABLE,
    BLOCK,
    N_COEFFICIENTS,
    make_averages,
    make_element_of,
    make_lanes,
    make_read_row,
    row_layout,
)
from fastadam.backends.cuda.randoms import middles, random_sequence, randoms_at
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import MASTER, ROLES, SCALES
from fastadam.step.coefficients import Row
from fastadam.step.compact import AT_RANDOM
from fastadam.step.variants import Variant, variant_of

# A row of the table.
GENERAL_TABLE = np.dtype(
    [*AVERAGES_TABLE.descr, *((name, np.int64) for name in (MASTER, *SCALES.values(), "position", "first"))]
)
_namedtuple: Any = collections.namedtuple
AT = _namedtuple("AT", GENERAL_TABLE.names)(*(GENERAL_TABLE.fields[name][1] for name in GENERAL_TABLE.names))
N_WORDS = 5
KEY_BYTES = 8

load_word, load_key = make_load(WORD, 1), make_load(LONG, 1)


def is_general(variant: Variant) -> bool:
    """Whether a variant is for the kernels here, not those of one format."""
    return variant.common_format not in FORMATS


@functools.cache
def make_general(number: int, averages: bool = False) -> Callable[..., None]:
    """Return the Python function of a variant's kernel, for numba-cuda to compile.

    Parameters
    ----------
    number : int
        A variant (see `fastadam.step.variants`).
    averages : bool
        Whether it moves averages, too, or in a variant that is idle, alone; the weight of the averages is behind
        each row of coefficients then.

    Returns
    -------
    callable
        ``table(spans, n_spans, rows, scale, keys)``: the addresses of rows of `GENERAL_TABLE`, of rows of
        coefficients in the compute dtype, of a number that `grad_scale` is multiplied by, or 0, and of what the
        random bits of each row come from. It takes the blocks that the table counts.
    """
    variant = variant_of(number)
    step, move = _make_step(variant), _make_move(variant)
    idle, read_row = variant.idle, make_read_row(variant.compute)
    load_scalar = make_load(FLOAT32 if variant.compute == np.float32 else FLOAT64, 1)
    weight_at, row_bytes = row_layout(variant.compute, averages)
    find = make_find(GENERAL_TABLE.itemsize, AT.first_block)

    def table(spans, n_spans, rows, scale, keys):
        block = WORD(cuda.blockIdx.x)
        span = find(spans, n_spans, block)
        first = (block - load_word(span + AT.first_block)[0]) * WORD(BLOCK) + WORD(cuda.threadIdx.x)
        first = first * WORD(EIGHT)
        # Threads that have nothing to step go along, as others wait for them.
        n = min(max(load_word(span + AT.size)[0] - first, WORD(0)), WORD(EIGHT))
        row = load_word(span + AT.row)[0]
        scalars = rows + row * row_bytes
        if not idle:
            step(span, first, n, read_row(scalars, scale), load_key(keys + row * KEY_BYTES)[0])
        if averages:
            move(span, first, n, load_scalar(scalars + weight_at)[0])

    return table


def _make_step(variant: Variant) -> Any:
    """Return ``step(span, first, n, row, key)``, one thread's share in the step of a span."""
    codecs = [make_codec(each, variant.compute) for each in variant.formats]
    load_param, settle_param, _, store_param = codecs[0]
    load_grad = codecs[1].load
    load_exp_avg, settle_exp_avg, word_of_exp_avg, store_exp_avg = codecs[2]
    load_exp_avg_sq, settle_exp_avg_sq, word_of_exp_avg_sq, store_exp_avg_sq = codecs[3]
    load_max, settle_max, word_of_max, store_max = codecs[4]
    at_random = [each in AT_RANDOM for each in variant.formats]
    randoms_of_param, _, randoms_of_avg, randoms_of_sq, *_ = map(_make_randoms, range(len(ROLES)), at_random)
    in_blocks = any(each in BLOCKS for each in variant.formats)
    share = _make_share(variant) if in_blocks else _share_nothing
    step_eight, amsgrad_on = _make_step_eight(variant), variant.amsgrad_on

    @on_device
    def step(span, first, n, row, key):
        params = place(span + AT.param, span + AT.master_param, first, n)
        exp_avgs = place(span + AT.exp_avg, span + AT.exp_avg_scale, first, n)
        exp_avg_sqs = place(span + AT.exp_avg_sq, span + AT.exp_avg_sq_scale, first, n)
        maxima = place(span + AT.max_exp_avg_sq, span + AT.max_exp_avg_sq_scale, first, n)
        position, before = load_word(span + AT.position)[0], load_word(span + AT.first)[0]

        old = load_param(params)
        grad, old_avg = load_grad(place(span + AT.grad, span + AT.grad, first, n)), load_exp_avg(exp_avgs)
        old_sq = load_exp_avg_sq(exp_avg_sqs)
        old_max = load_max(maxima) if amsgrad_on else old_sq
        computed = step_eight((old, grad, old_avg, old_sq, old_max), row)
        new, new_avg = settle_param(computed[0], n), settle_exp_avg(computed[1], n)
        new_sq = settle_exp_avg_sq(computed[2], n)
        new_max = settle_max(computed[3], n) if amsgrad_on else new_sq
        word, word_sq, word_max = share(word_of_exp_avg(new_avg), word_of_exp_avg_sq(new_sq), word_of_max(new_max))
        store_param(params, new, randoms_of_param(key, position, before, first), PAIR(0))
        store_exp_avg(exp_avgs, new_avg, randoms_of_avg(key, position, before, first), word)
        store_exp_avg_sq(exp_avg_sqs, new_sq, randoms_of_sq(key, position, before, first), word_sq)
        if amsgrad_on:  # a running maximum stays what it is
            store_max(maxima, new_max, middles(), word_max)

    return step


@on_device
def place(array_at, beside_at, first, n):
    """Return where eight numbers are, whose array's address is in a table, and that of what lies beside it."""
    return load_word(array_at)[0], load_word(beside_at)[0], first, n


def _make_step_eight(variant: Variant) -> Any:
    """Return ``step_eight(numbers, row)``: four times eight new numbers of five times eight old ones."""
    lanes, numbers = make_lanes(make_element_of(variant), EIGHT), eight_of(variant.compute)

    def step_eight(old, row):
        return lanes(old[0], old[1], old[2], old[3], old[4], row)

    row = types.NamedUniTuple(numbers.dtype, N_COEFFICIENTS, Row)
    return compiled_apart(step_eight, types.UniTuple(numbers, 4), types.UniTuple(numbers, len(ROLES)), row)


def _make_randoms(role: int, needed: bool) -> Any:
    """Return ``randoms(key, position, before, first)``: the random bits of eight elements of a role."""
    if not needed:

        @on_device
        def nothing(key, position, before, first):
            return middles()

        return nothing

    @on_device
    def randoms(key, position, before, first):
        return randoms_at(random_sequence(key, position, role, before), first)

    return randoms


@on_device
def _share_nothing(word, word_sq, word_max):
    return word, word_sq, word_max


def _make_share(variant: Variant) -> Any:
    """Return ``share(word, word_sq, word_max)``: the words of threads to those of the whole block of numbers."""
    amsgrad_on = variant.amsgrad_on
    n_words = 3 * BLOCK if amsgrad_on else 2 * BLOCK

    @on_device
    def of_block(words, at):
        return joined_of_eight(
            (
                *(words[at], words[at + 1], words[at + 2], words[at + 3]),
                *(words[at + 4], words[at + 5], words[at + 6], words[at + 7]),
            )
        )

    @on_device
    def share(word, word_sq, word_max):
        words = cuda.shared.array(n_words, types.uint32)
        thread = WORD(cuda.threadIdx.x)
        words[thread], words[thread + BLOCK] = word, word_sq
        if amsgrad_on:
            words[thread + 2 * BLOCK] = word_max
        cuda.syncthreads()
        at = thread - (thread & WORD(THREADS_PER_SCALE - 1))
        word, word_sq = of_block(words, at), of_block(words, at + BLOCK)
        if amsgrad_on:
            word_max = of_block(words, at + 2 * BLOCK)
        return word, word_sq, word_max

    return share


def _make_move(variant: Variant) -> Any:
    """Return ``move(span, first, n, weight)``, one thread's share in the averages of a span.

    It reads the parameters as they are stored by then, with their masters.
    """
    load_param = make_codec(variant.formats[0], variant.compute).load
    load_emas, store_emas = make_load_eight(variant.compute), make_store_eight(variant.compute)
    moved_all, itemsize, numbers = (
        make_averages(variant.compute, EIGHT),
        variant.compute.itemsize,
        eight_of(variant.compute),
    )
    moved = compiled_apart(moved_all, numbers, numbers, numbers, numbers.dtype)

    @on_device
    def move(span, first, n, weight):
        params = load_param(place(span + AT.param, span + AT.master_param, first, n))
        at = load_word(span + AT.ema)[0] + first * itemsize
        store_emas(at, n, moved(load_emas(at, n), params, weight))

    return move
