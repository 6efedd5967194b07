"""Arrays of the kinds that are taken as parameters and gradients, as types for checkers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

# (To checkers, an array of the bfloat16 of ml_dtypes is of an unknown dtype.)
Number: TypeAlias = np.float32 | np.float64 | np.float16 | np.complex64 | np.complex128


class CudaArrayLike(Protocol):
    """An array on a CUDA device, of whichever library."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]:
        """Where it lies, see `fastadam.memory.cuda.arrays`."""


class JaxArrayLike(Protocol):
    """An array of JAX, known by what NumPy's arrays have not (see `fastadam.memory.jax_arrays`)."""

    @property
    def aval(self) -> Any:
        """Its shape and dtype, as JAX has them."""

    def block_until_ready(self) -> Any:
        """Wait until it is computed."""


Parametric: TypeAlias = NDArray[Number] | CudaArrayLike
Slope: TypeAlias = NDArray[Number] | Number | CudaArrayLike | JaxArrayLike
