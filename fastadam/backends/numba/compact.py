"""Chunks of numbers in all formats, as they are computed with, for Numba's kernels. Importing it imports Numba.

The functions do what cext/codecs.inc and cext/chunks.inc do. What only some variants need is apart from the
kernels of the others, with which those compile no slower.
"""

from __future__ import annotations

import math

from numba import types
from numba.extending import register_jitable

from fastadam.backends.numba import codecs
from fastadam.backends.numba.after import average_strip, move
from fastadam.backends.numba.codecs import bits_of, float32, float_of, select, uint16, uint32
from fastadam.backends.numba.memory import make_room, numbers, word
from fastadam.backends.numba.sources import name_for_cache
from fastadam.memory import formats
from fastadam.memory.structs import CHUNK, ROLES, SCALE_BLOCK
from fastadam.step import compact
from fastadam.step.compact import INFINITE_BITS, MIDDLE

FLOAT32, FLOAT64 = formats.FLOAT32.code, formats.FLOAT64.code
BFLOAT16, FLOAT16 = formats.BFLOAT16.code, formats.FLOAT16.code
INT8, ROOT8 = formats.INT8.code, formats.ROOT8.code
BFLOAT16_STOCHASTIC, FLOAT16_STOCHASTIC = formats.BFLOAT16_STOCHASTIC.code, formats.FLOAT16_STOCHASTIC.code
BFLOAT16_MASTER, FLOAT16_MASTER = formats.BFLOAT16_MASTER.code, formats.FLOAT16_MASTER.code
LARGEST = len(ROLES) - 1
ROOM_BYTES = CHUNK * 8
# For a chunk of each array, one of what is narrowed or widened on the way, and where each of them lies.
FLOATS = len(ROLES) * ROOM_BYTES
PLACES = FLOATS + ROOM_BYTES
rooms = make_room(PLACES + len(ROLES) * 8)
SIZE_BITS, NAN_BITS = 0x7FFFFFFF, 0x7FC00000
int16, int32, uint64 = types.int16, types.int32, types.uint64

random = compact.make_random(uint64, register_jitable)
random_key, random_sequence = register_jitable(random.key), register_jitable(random.sequence)
narrow_bfloat16_stochastic = register_jitable(
    compact.make_narrow_bfloat16_stochastic(uint16, uint32, bits_of, select)
)
narrow_float16_stochastic = register_jitable(
    compact.make_narrow_float16_stochastic(uint16, uint32, float32, float_of, bits_of, int32, select)
)
part_master = register_jitable(compact.make_part_master(uint16, int16, uint32, bits_of, select))
join_master = register_jitable(compact.make_join_master(uint32, int32, float_of, select))
join_float16_master = register_jitable(
    compact.make_join_float16_master(codecs.narrow_float16, codecs.widen_float16, select)
)


def make_blocks(number_format, code_type):
    """Return the functions that load and store chunks of `number_format`, whose codes are of `code_type`."""

    def named(function):  # compiled functions are known by their names
        return register_jitable(name_for_cache(function, number_format.name))

    decode = named(compact.make_decode(int32, float32, select, number_format))
    encode = named(compact.make_encode(int32, int32, select, number_format))
    special = named(compact.make_special(int32, float32, select, number_format))
    scale_of = named(compact.make_scale(uint32, float32, float_of, select, number_format))

    @named
    def load_blocks(address, scales_at, n, found):
        codes, scales = numbers(address, n, code_type), numbers(scales_at, n, types.float32)
        for first in range(0, n, SCALE_BLOCK):
            end = min(first + SCALE_BLOCK, n)
            bits = bits_of(scales[first // SCALE_BLOCK])
            size, part, into = float_of(bits & uint32(SIZE_BITS)), codes[first:end], found[first:end]
            if bits > uint32(SIZE_BITS):
                for i in range(part.size):
                    into[i] = decode(int32(part[i]), size, True)
            else:
                for i in range(part.size):
                    into[i] = decode(int32(part[i]), size, False)

    @named
    def store_blocks(address, scales_at, found, start, stride):
        n = found.size
        codes, scales = numbers(address, n, code_type), numbers(scales_at, n, types.float32)
        for first in range(0, n, SCALE_BLOCK):
            end = min(first + SCALE_BLOCK, n)
            part, into = found[first:end], codes[first:end]
            begin = uint32(start + uint32(first) * stride)
            largest = int32(0)
            for i in range(part.size):
                largest = max(largest, int32(bits_of(part[i]) & uint32(SIZE_BITS)))
            if largest < int32(INFINITE_BITS):
                scale, factor = scale_of(uint32(largest), False)
                for i in range(part.size):
                    bits = uint32(begin + uint32(i) * stride) >> uint32(16)
                    into[i] = code_type(encode(part[i], factor, bits))
            else:
                largest = int32(0)
                for i in range(part.size):
                    size = int32(bits_of(part[i]) & uint32(SIZE_BITS))
                    if size < int32(INFINITE_BITS):
                        largest = max(largest, size)
                scale, factor = scale_of(uint32(largest), True)
                for i in range(part.size):
                    if int32(bits_of(part[i]) & uint32(SIZE_BITS)) < int32(INFINITE_BITS):
                        bits = uint32(begin + uint32(i) * stride) >> uint32(16)
                        into[i] = code_type(encode(part[i], factor, bits))
                    else:
                        into[i] = code_type(special(part[i]))
            scales[first // SCALE_BLOCK] = scale

    return load_blocks, store_blocks


load_int8, store_int8 = make_blocks(formats.INT8, types.int8)
load_root8, store_root8 = make_blocks(formats.ROOT8, types.uint8)


@register_jitable
def address_in(span, role):
    """Return where the array of a role is."""
    if role == 0:
        return span.param
    if role == 1:
        return span.grad
    if role == 2:
        return span.exp_avg
    return span.exp_avg_sq if role == 3 else span.max_exp_avg_sq


@register_jitable
def scales_in(span, role, first):
    """Return where the scales of a role are, from those of element `first` on."""
    found = span.max_exp_avg_sq_scale
    if role == 2:
        found = span.exp_avg_scale
    elif role == 3:
        found = span.exp_avg_sq_scale
    return found + 4 * (first // SCALE_BLOCK)


@register_jitable
def load_float32(code, span, role, first, n, room):
    """Return the `n` numbers of a role from element `first` on, as float32: where they lie, or in a room."""
    array = address_in(span, role)
    if code == BFLOAT16_STOCHASTIC:
        code = BFLOAT16
    elif code == FLOAT16_STOCHASTIC:
        code = FLOAT16
    if code <= FLOAT16:
        return codecs.load(code, array, first, n, room)
    found = numbers(room, n, types.float32)
    if code == INT8:
        load_int8(array + first, scales_in(span, role, first), n, found)
    elif code == ROOT8:
        load_root8(array + first, scales_in(span, role, first), n, found)
    elif code == BFLOAT16_MASTER:
        weights = numbers(array + 2 * first, n, types.uint16)
        rests = numbers(span.master_param + 2 * first, n, types.int16)
        for i in range(n):
            found[i] = join_master(weights[i], rests[i])
    else:
        weights = numbers(array + 2 * first, n, types.uint16)
        masters = numbers(span.master_param + 4 * first, n, types.float32)
        for i in range(n):
            found[i] = join_float16_master(weights[i], masters[i])
    return found


@register_jitable
def store_float32(code, span, role, first, found, sequences):
    """Round numbers to the format of a role, and put them back; of exp_avg_sq in 8 bits, they are roots."""
    array, n = address_in(span, role), found.size
    start, stride = uint32(MIDDLE), uint32(0)
    if role != LARGEST:  # a running maximum is rounded to nearest
        stride = uint32(sequences[role])
        start = uint32(uint32(sequences[role] >> uint64(32)) + uint32(first) * stride)
    if code == INT8:
        store_int8(array + first, scales_in(span, role, first), found, start, stride)
    elif code == ROOT8:
        store_root8(array + first, scales_in(span, role, first), found, start, stride)
    elif code == BFLOAT16_STOCHASTIC:
        stored = numbers(array + 2 * first, n, types.uint16)
        for i in range(n):
            bits = uint32(start + uint32(i) * stride) >> uint32(16)
            stored[i] = narrow_bfloat16_stochastic(found[i], bits)
    elif code == FLOAT16_STOCHASTIC:
        stored = numbers(array + 2 * first, n, types.uint16)
        for i in range(n):
            bits = uint32(start + uint32(i) * stride) >> uint32(16)
            stored[i] = narrow_float16_stochastic(found[i], bits)
    elif code == BFLOAT16_MASTER:
        stored = numbers(array + 2 * first, n, types.uint16)
        rests = numbers(span.master_param + 2 * first, n, types.int16)
        for i in range(n):
            stored[i], rests[i] = part_master(found[i])
    elif code == FLOAT16_MASTER:
        masters = numbers(span.master_param + 4 * first, n, types.float32)
        for i in range(n):
            masters[i] = found[i]
        codecs.store(FLOAT16, array, first, found)
    else:
        codecs.store(code, array, first, found)


@register_jitable
def load_float64(code, span, role, first, n, room, floats):
    """Return the `n` numbers of a role from element `first` on, as float64: where they lie, or in a room."""
    if code == FLOAT64:
        return numbers(address_in(span, role) + 8 * first, n, types.float64)
    narrow, found = load_float32(code, span, role, first, n, floats), numbers(room, n, types.float64)
    for i in range(n):
        found[i] = narrow[i]
    return found


@register_jitable
def store_float64(code, span, role, first, found, sequences, floats):
    """Round numbers to the format of a role, and put them back, unless they lie there already."""
    if code == FLOAT64:
        return
    if code == FLOAT32:
        narrow = numbers(address_in(span, role) + 4 * first, found.size, types.float32)
    else:
        narrow = numbers(floats, found.size, types.float32)
    for i in range(found.size):
        narrow[i] = types.float32(found[i])
    store_float32(code, span, role, first, narrow, sequences)


@register_jitable
def average_master_strip(code, span, first, last, weight, room):
    """Do what `average_strip` does, with masters where there are any."""
    if code in (FLOAT32, FLOAT64):
        average_strip(code, span, first, last, weight, room)
    else:
        for at in range(first, last, CHUNK):
            n = min(CHUNK, last - at)
            emas = numbers(span.ema + 4 * at, n, types.float32)
            move(emas, load_float32(code, span, 0, at, n, room), types.float32(weight))


def make_step(elements, row_of, amsgrad_on, in_double, named):
    """Return the function that steps elements of a span in any formats, in chunks.

    Parameters
    ----------
    elements, row_of : callable
        See `fastadam.backends.numba.kernels.make_kernel`.
    amsgrad_on : bool
        Whether the running maximum is used.
    in_double : bool
        Whether float64 is computed in.
    named : callable
        Gives a function a name of its own.

    Notes
    -----
    What loads and what stores is called at one place each: it is compiled anew for every place.
    """
    real = types.float64 if in_double else types.float32
    n_roles = LARGEST + amsgrad_on

    @register_jitable
    @named
    def load(code, span, role, first, n, room):
        own = room + role * ROOM_BYTES
        if in_double:
            return load_float64(code, span, role, first, n, own, room + FLOATS)
        return load_float32(code, span, role, first, n, own)

    @register_jitable
    @named
    def store(code, span, role, first, found, sequences, room):
        if code == ROOT8:
            for i in range(found.size):
                found[i] = math.sqrt(found[i])
        if in_double:
            store_float64(code, span, role, first, found, sequences, room + FLOATS)
        else:
            store_float32(code, span, role, first, found, sequences)

    @register_jitable
    @named
    def step(plan, codes, span, first, last, room):
        row, places = row_of(plan, span), numbers(room + PLACES, len(ROLES), types.int64)
        key = uint64(word(plan.random_keys + 8 * span.row))
        sequences = (
            random_sequence(key, span.position, 0, span.first),
            random_sequence(key, span.position, 1, span.first),
            random_sequence(key, span.position, 2, span.first),
            random_sequence(key, span.position, 3, span.first),
        )
        for at in range(first, last, CHUNK):
            n = min(CHUNK, last - at)
            places[LARGEST] = room
            for role in range(n_roles):
                places[role] = load(codes[role], span, role, at, n, room).ctypes.data
            elements(
                numbers(places[0], n, real),
                numbers(places[1], n, real),
                numbers(places[2], n, real),
                numbers(places[3], n, real),
                numbers(places[LARGEST], n, real),
                row,
            )
            for role in range(n_roles):
                if role != 1:  # that of the gradient
                    store(codes[role], span, role, at, numbers(places[role], n, real), sequences, room)

    return step
