"""How the kernels share out spans among threads."""

from __future__ import annotations

import numpy as np

from fastadam.backends.cuda.eights import EIGHT
from fastadam.backends.cuda.general_kernels import is_general
from fastadam.backends.cuda.kernels import BLOCK, VECTOR_BYTES, format_of, width
from fastadam.memory.arrays import Array
from fastadam.memory.structs import ROLES
from fastadam.step.variants import variant_of


class Layout:
    """How the kernels of one variant do."""

    def __init__(self, number: int) -> None:
        variant = variant_of(number)
        self.amsgrad_on = variant.amsgrad_on
        # The arrays that a step reads or writes, beside averages.
        self.roles = ROLES[:1] if variant.idle else ROLES if variant.amsgrad_on else ROLES[:-1]
        self.real = variant.compute
        self.is_general = is_general(variant)
        self.lanes = EIGHT if self.is_general else width(format_of(variant))
        self.block, self.vector_bytes = BLOCK, VECTOR_BYTES

    def vectors(self, spans: Array, averages: tuple[str, ...]) -> Array:
        """Return how many vectors of each span are stepped at once, by threads that do not step all in eights."""
        names = (*self.roles, *averages)
        aligned: Array = np.bitwise_or.reduce([spans[name] for name in names]) % self.vector_bytes == 0
        return np.where(aligned, spans["size"] // self.lanes, 0)

    def threads(self, sizes: Array, vectors: Array) -> Array:
        """Return how many threads spans take."""
        found: Array = -(-sizes // EIGHT) if self.is_general else sizes - vectors * (self.lanes - 1)
        return found
