"""The formats of numbers: how they lie in memory, what kernels compute with, and what others call them.

This is the one table of them. A *format* is one of real numbers; an *element* of an array is one number in some
format or, of a complex array, two.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """How real numbers lie in memory, and in which dtype kernels compute with them.

    Attributes
    ----------
    name : str
    code : int
        Its number, for native code.
    stored : dtype
        As the library sees them in memory: bfloat16, which NumPy has not, as the integer of its width.
    compute : dtype
    safetensors : str
        Their dtype in checkpoints.
    dlpack : int
        DLPack's code of the type, to which the width belongs.
    """

    name: str
    code: int
    stored: np.dtype[Any]
    compute: np.dtype[Any]
    safetensors: str
    dlpack: int


class Element(NamedTuple):
    """What one element of an array is.

    Attributes
    ----------
    real : dtype
        Of its numbers, as they are stored.
    reals : int
        How many there are.
    format : Format
    name : str
        What NumPy and PyTorch call the dtype of such arrays.
    dlpack : int
        DLPack's code of the type.
    """

    real: np.dtype[Any]
    reals: int
    format: Format
    name: str
    dlpack: int


_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_DL_INT, _DL_UINT, _DL_FLOAT, _DL_BFLOAT, _DL_COMPLEX = 0, 1, 2, 4, 5

FLOAT32 = Format("float32", 0, _FLOAT32, _FLOAT32, "F32", _DL_FLOAT)
FLOAT64 = Format("float64", 1, _FLOAT64, _FLOAT64, "F64", _DL_FLOAT)
BFLOAT16 = Format("bfloat16", 2, np.dtype(np.uint16), _FLOAT32, "BF16", _DL_BFLOAT)
FLOAT16 = Format("float16", 3, np.dtype(np.float16), _FLOAT32, "F16", _DL_FLOAT)
# Those of arrays that users have, by their codes.
FORMATS = (FLOAT32, FLOAT64, BFLOAT16, FLOAT16)

# Those that only a step knows how to write (fastadam/step/compact.py has what each of them is). State of 8 bits
# lies in blocks of `SCALE_BLOCK` numbers, each with a scale beside it; a master, beside a weight of 16 bits.
INT8 = Format("int8", 4, np.dtype(np.int8), _FLOAT32, "I8", _DL_INT)
ROOT8 = Format("root8", 5, np.dtype(np.uint8), _FLOAT32, "U8", _DL_UINT)
BFLOAT16_STOCHASTIC = BFLOAT16._replace(name="bfloat16_stochastic", code=6)
FLOAT16_STOCHASTIC = FLOAT16._replace(name="float16_stochastic", code=7)
BFLOAT16_MASTER = BFLOAT16._replace(name="bfloat16_master", code=8)
FLOAT16_MASTER = FLOAT16._replace(name="float16_master", code=9)
COMPACT = (INT8, ROOT8, BFLOAT16_STOCHASTIC, FLOAT16_STOCHASTIC, BFLOAT16_MASTER, FLOAT16_MASTER)
# All, by their codes.
ALL_FORMATS = (*FORMATS, *COMPACT)

# By their names, in the order in which messages list them.
ELEMENTS = {
    **{each.name: Element(each.stored, 1, each, each.name, each.dlpack) for each in FORMATS},
    "complex64": Element(_FLOAT32, 2, FLOAT32, "complex64", _DL_COMPLEX),
    "complex128": Element(_FLOAT64, 2, FLOAT64, "complex128", _DL_COMPLEX),
}


class ByDtype(dict[np.dtype[Any], Element]):
    """All elements by NumPy's dtypes of the same names.

    NumPy has no bfloat16. Its dtype, which ml_dtypes makes, enters at the first look-up: an array of it has had
    somebody import ml_dtypes, which is not imported here.
    """

    def __init__(self) -> None:
        super().__init__((np.dtype(name), each) for name, each in ELEMENTS.items() if name != BFLOAT16.name)

    def __missing__(self, dtype: Any) -> Element:
        if not is_bfloat16(dtype):
            raise KeyError(dtype)
        self[dtype] = found = ELEMENTS[BFLOAT16.name]
        return found

    def __contains__(self, dtype: object) -> bool:
        return super().__contains__(dtype) or is_bfloat16(dtype)


def is_bfloat16(dtype: Any) -> bool:
    """Whether a dtype is the bfloat16 of ml_dtypes, which is JAX's, too."""
    number_type = getattr(sys.modules.get("ml_dtypes"), BFLOAT16.name, None)
    return number_type is not None and bool(dtype == np.dtype(number_type))


def takes(param: Element, grad: Element) -> bool:
    """Whether a parameter of some elements takes gradients of others.

    They are its own or, of a real parameter that is computed with in float32, all real ones that are.
    """
    both = (param, grad)
    return param == grad or all(each.reals == 1 and each.format.compute == _FLOAT32 for each in both)
