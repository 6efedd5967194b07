"""How the kernels share out a span among threads."""

from __future__ import annotations

from fastadam.backends.cuda.kernels import BLOCK, VECTOR_BYTES, format_of, width
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
        self.lanes = width(format_of(variant))
        self.block, self.vector_bytes = BLOCK, VECTOR_BYTES
