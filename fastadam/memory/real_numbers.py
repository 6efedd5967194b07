"""Real numbers in any form that NumPy makes arrays of, for doors whose libraries take them so."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.remedies import Use, is_quantity, lost_meaning, not_an_array, other_dtype, remedy_for


def real_numbers(given: Any, name: str, use: Use) -> Array:
    """Return real numbers as an array of at least one dimension.

    Parameters
    ----------
    given : array_like
    name : str
        How error messages call it.
    use : Use

    Returns
    -------
    ndarray
        Over the memory of `given` where that is an array.

    Raises
    ------
    TypeError
        If it holds no real numbers, or these are not all that it means: it is masked, or has a unit.
    """
    lost = lost_meaning(given, use) if isinstance(given, np.ndarray) else None
    if lost is not None or is_quantity(given):
        raise TypeError(f"{name} {lost or not_an_array(given, use)}")
    try:
        found = np.atleast_1d(np.asarray(given))
    except ValueError as error:  # of rows that have different lengths
        raise TypeError(f"{name} {not_an_array(given, use)}") from error
    if found.dtype.kind in "fiub":
        return found
    if found.dtype.kind == "c":
        remedy = "minimize over real and imaginary parts: np.concatenate([z.real, z.imag])"
    elif found.dtype.names is not None:
        remedy = (
            f"make one array of its fields: np.concatenate([{use.name}[key] for key in {use.name}.dtype.names])"
        )
    else:
        remedy = other_dtype(found, use) if isinstance(given, np.ndarray) else remedy_for(given, use)
    raise TypeError(f"{name} must hold real numbers, got dtype {found.dtype}; {remedy}")
