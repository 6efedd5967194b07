"""How spans are cut into chunks, over which programs are replayed.

What is computed on the way stays in the cache and never reaches the size of the parameters. State of 8 bits lies
in blocks: chunks are rows of a block each then, with what is left of a span in a chunk of its own.
"""

from __future__ import annotations

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.structs import SCALE_BLOCK

# Elements per chunk, a multiple of a block's.
CHUNK = 8192


def lengths_of(size: int, in_blocks: bool) -> list[int]:
    """Return how many elements the chunks of a span have."""
    rest = size % SCALE_BLOCK if in_blocks else 0
    lengths = [min(CHUNK, size - rest - low) for low in range(0, size - rest, CHUNK)]
    return [*lengths, rest] if rest else lengths


def numbers_of(sizes: Array, in_blocks: bool) -> Array:
    """Return how many chunks each span has."""
    rests = sizes % SCALE_BLOCK if in_blocks else 0
    chunks = -(-(sizes - rests) // CHUNK) + (rests > 0)
    return chunks.astype(np.intp)  # 32 bits where pointers have them


def firsts_of(sizes: Array, in_blocks: bool) -> Array:
    """Return at which element of its span each chunk begins."""
    chunks = numbers_of(sizes, in_blocks)
    nth = np.arange(chunks.sum()) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    firsts: Array = nth * CHUNK
    if in_blocks:
        firsts = np.minimum(firsts, np.repeat(sizes - sizes % SCALE_BLOCK, chunks))
    return firsts


def shaped(array: Array, in_blocks: bool) -> Array:
    """Return the numbers of a chunk as they lie in it."""
    return array.reshape(-1, min(SCALE_BLOCK, array.size)) if in_blocks else array


def cut(array: Array, in_blocks: bool) -> list[Array]:
    """Return the chunks of a span's array."""
    if not in_blocks:
        whole = len(array) // CHUNK * CHUNK
        return [*array[:whole].reshape(-1, CHUNK), *([array[whole:]] if whole < len(array) else [])]
    found, first = [], 0
    for length in lengths_of(len(array), in_blocks):
        found.append(shaped(array[first : first + length], in_blocks))
        first += length
    return found


def cut_scales(scales: Array, size: int) -> list[Array]:
    """Return what the chunks of a span have for each block, as columns."""
    found, first = [], 0
    for length in lengths_of(size, True):
        last = first - (-length // SCALE_BLOCK)
        found.append(scales[first:last].reshape(-1, 1))
        first = last
    return found
