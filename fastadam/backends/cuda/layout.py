"""How the kernels share out a span among threads."""

from __future__ import annotations

from fastadam.backends.cuda.kernels import BLOCK, VECTOR_BYTES, width
from fastadam.step.formats import variant_of


class Layout:
    """How the kernels of one variant do."""

    def __init__(self, variant: int) -> None:
        number_format, _, self.amsgrad_on = variant_of(variant)
        self.real = number_format.compute
        self.lanes = width(number_format)
        self.block, self.vector_bytes = BLOCK, VECTOR_BYTES
