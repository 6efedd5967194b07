"""What error messages say of values that are no plain arrays of numbers, and what to do about them.

A remedy is code about the user's own variable, whose name follows from what becomes of the array (`Use`). An
array that is written has to be the one that the user goes on with, or a copy would be trained that nobody reads;
one that is copied or read may be made for the call.
"""

from __future__ import annotations

import array
import functools
from collections.abc import Callable, Mapping
from numbers import Number
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.formats import BFLOAT16, ELEMENTS
from fastadam.memory.words import a_name_of, shown

# Attributes by which subclasses of NumPy's arrays say that their numbers alone are not all that they mean.
MEANINGS = ("mask", "unit", "units")

# A class's `__mro__` and `__dict__`, in which no metaclass has a say.
_bases_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_attributes_of: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


class Use(NamedTuple):
    """What becomes of an array that a user gives.

    Attributes
    ----------
    name : str
        How remedies call the user's variable.
    makes_copies : bool
        Whether an array that is made for the call alone serves.
    """

    name: str
    makes_copies: bool

    def instead(self, code: str) -> str:
        """Return the advice to use what `code` makes, in the place of what was given."""
        if self.makes_copies:
            return f"pass {code}"
        return f"make it one, and go on with that: {self.name} = {code}"


# Parameters and gradients that are written in place, gradients that are read, arrays that are copied.
WRITTEN, CLIPPED, READ, COPIED = Use("w", False), Use("g", False), Use("grad", True), Use("x", True)


def lost_meaning(value: Any, use: Use) -> str | None:
    """Say what would be ignored of an array whose numbers alone are not all that it means.

    Parameters
    ----------
    value : ndarray
        Of any class. No code of its own runs unless there is something to say: this is asked amid the checks of a
        step.
    use : Use

    Returns
    -------
    str or None
        The end of an error message, behind the name of the argument; None for other arrays.
    """
    kind = type(value)
    if kind is np.ndarray:
        return None
    if issubclass(kind, np.ma.MaskedArray):
        remedy = ".filled(0)" if use.makes_copies else ".data, which shares its memory"
        return f"is a masked array, whose mask would be ignored; pass its {remedy}"
    found = _meaning_of(value, kind)
    if found is None:
        return None
    what = "a mask" if found == "mask" else f"the {found} {shown(value, lambda value: str(getattr(value, found)))}"
    name = use.name
    alone = {
        WRITTEN: f"{name} goes on showing what is written to its numbers, so optimize these alone",
        CLIPPED: f"{name} goes on showing what is written to its numbers, so clip these alone",
        READ: "convert it to what the parameter's numbers are counted in, and pass its own alone",
        COPIED: "pass its numbers alone",
    }
    return (
        f"is {a_name_of(value)} with {what}, which would be ignored; {alone[use]}: "
        f"np.ndarray.view({name}, np.ndarray)"
    )


def _meaning_of(value: Any, kind: type) -> str | None:
    """Return which of `MEANINGS` an array has that is not None; what a property would return is not asked."""
    # (Looking up a class is code of its metaclass, if it has one.)
    found, slot = _declared(kind) if type(kind) is type else _declared.__wrapped__(kind)
    own = {} if slot is None else slot.__get__(value)
    if not found and not own:
        return None
    for name in MEANINGS:
        attribute = dict.get(own, name, found.get(name))
        if type(attribute) is MemberDescriptorType:  # of `__slots__`
            try:
                attribute = attribute.__get__(value)
            except AttributeError:
                continue
        if attribute is not None:
            return name
    return None


@functools.lru_cache(maxsize=64)
def _declared(kind: type) -> tuple[dict[str, Any], Any]:
    """Return what a class has under the names of `MEANINGS`, and what reads the ``__dict__`` of an array of it."""
    found: dict[str, Any] = {}
    slot = None
    for base in reversed(_bases_of(kind)):
        attributes = _attributes_of(base)
        found.update((name, attributes[name]) for name in MEANINGS if name in attributes)
        if type(attributes.get("__dict__")) is GetSetDescriptorType:
            slot = attributes["__dict__"]
    return found, slot


def is_quantity(value: Any) -> bool:
    """Whether a value is numbers with a unit around them, as those of pint are."""
    return hasattr(type(value), "magnitude") and hasattr(type(value), "units")


def looks_like_an_array(value: Any) -> bool:
    """Whether a value holds numbers as an array does, is no NumPy array, and no container of arrays either."""
    if isinstance(value, np.ndarray | np.generic | type | Mapping):
        return False
    kind, names = type(value), ("__array__", "__dlpack__", "toarray")
    return isinstance(value, memoryview | array.array) or any(hasattr(kind, name) for name in names)


def are_numbers(values: Any) -> bool:
    """Whether a list, tuple or range holds numbers and nothing else."""
    return isinstance(values, list | tuple | range) and bool(values) and all(map(_is_number, values))


def makes_an_array(values: list[Any] | tuple[Any, ...]) -> bool:
    """Whether numbers, or lists of these in rows of the same length, stand in the place of one array."""
    rows = all(_is_number(value) or isinstance(value, list | tuple | range) for value in values)
    return bool(values) and rows and _converted(values) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, Number | np.generic)


def not_an_array(value: Any, use: Use, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> str:
    """Say what `value` is instead of a NumPy array, and what to do about it.

    Parameters
    ----------
    value : object
        Anything but an ndarray.
    use : Use
    dtype : str, optional
        The name of the dtype that it is to have; the default is one that its numbers fit.
    shape : tuple of int, optional
        The shape that it is to have.

    Returns
    -------
    str
        The end of an error message, behind the name of the argument.
    """
    is_of_jax = _module_of(value) in ("jax", "jaxlib")
    if not is_of_jax and _module_of(value) != "torch" and hasattr(value, "__cuda_array_interface__"):
        return f"is {a_name_of(value)} on a CUDA device, where a NumPy array is needed; copy it to the host"
    return f"is {a_name_of(value)}, not a NumPy array; {remedy_for(value, use, dtype, shape)}"


def remedy_for(value: Any, use: Use, dtype: str | None = None, shape: tuple[int, ...] | None = None) -> str:
    """Say what to do about a value that is no NumPy array (see `not_an_array`)."""
    name, kind, module = use.name, type(value), _module_of(value)
    if hasattr(kind, "parameters") and hasattr(kind, "state_dict"):
        return "use fastadam.torch.Adam for its parameters: model.parameters()"
    if module == "torch":
        if use is CLIPPED:
            return "use fastadam.torch.clip_grad_norm_ for torch tensors"
        return (
            f"use fastadam.torch.Adam for torch tensors, or pass {name}.detach().numpy(), which shares the memory "
            f"of a tensor on the CPU"
        )
    if module == "autograd":
        return "it stands for one while autograd differentiates, so call this outside of what is differentiated"
    if module == "fastadam" and kind.__name__ == "Parameter":
        return "pass its .grad, or call step() without arguments" if use is READ else "pass its .data"
    if is_quantity(value):
        return f"its unit would be ignored; pass its numbers, in the unit of the others: {name}.magnitude"
    wanted = dtype or named_dtype(value)
    if hasattr(kind, "toarray"):
        return use.instead(f"{name}.toarray().astype(np.{wanted})")
    if hasattr(kind, "__array__") or isinstance(value, memoryview | array.array):
        found = getattr(value, "shape", None) if isinstance(value, memoryview | np.generic) else None
        return use.instead(_made(use, name, wanted) + reshaped(found, shape))
    if hasattr(kind, "__dlpack__"):
        return use.instead(_made(use, f"np.from_dlpack({name})", wanted))
    if _is_number(value) or isinstance(value, list | tuple | range):
        numbers = _converted(value)
        if numbers is None:
            return "what is in it makes no array of numbers; give each array by itself"
        wanted = dtype or ("complex128" if numbers.dtype.kind == "c" else "float64")
        return use.instead(_made(use, name, wanted) + reshaped(numbers.shape, shape))
    return "give an array" if value is None else f"give an array in the place of {shown(value)}"


def _made(use: Use, name: str, dtype: str) -> str:
    """Return code that makes an array; what is written lies in rows, whatever it is made of."""
    rows = "" if use.makes_copies else ", order='C'"
    return f"np.array({name}, np.{dtype}{rows})"


def reshaped(found: tuple[int, ...] | None, wanted: tuple[int, ...] | None) -> str:
    """Return code that gives an array another shape, where only axes of length 1 differ; "" elsewhere."""
    if found is None or wanted is None or found == wanted:
        return ""
    return f".reshape({wanted})" if [n for n in found if n != 1] == [n for n in wanted if n != 1] else ""


def _converted(value: Any) -> Any:
    """Return numbers in nested lists as an array, or None where they make none."""
    try:
        found = np.asarray(value)
    except Exception:  # rows of different lengths, or foreign code
        return None
    return found if found.dtype.kind in "biufc" else None


def named_dtype(value: Any) -> str:
    """Return the name of a dtype that is stepped, and that the numbers of `value`, by its dtype, fit."""
    dtype = getattr(value, "dtype", None)
    name = str(getattr(dtype, "name", dtype)).rpartition(".")[-1]
    if name == BFLOAT16.name:
        return "float32"  # which NumPy has, and which has all its digits
    if name in ELEMENTS:
        return name
    if name.startswith(("complex", "clongdouble")):
        return "complex128"
    return "float32" if name.startswith("float8") else "float64"


def dtype_of_gradient(param: Any) -> str:
    """Return the name of the dtype that gradients of a parameter are best converted to."""
    return "float32" if param.dtype.itemsize == 2 else str(param.dtype)


def other_dtype(array: Any, use: Use) -> str:
    """Say what to do about an ndarray of a dtype that is not stepped."""
    name, dtype = use.name, array.dtype
    if dtype.names is not None:
        fields = f"{{key: np.array({name}[key], np.float64) for key in {name}.dtype.names}}"
        if use.makes_copies:
            return f"pass its fields apart: {fields}"
        return f"take its fields apart before, and go on with these: {name} = {fields}"
    if dtype.type is np.void and dtype.itemsize == 2:
        code = f"{name}.view(ml_dtypes.bfloat16)"
        view = f"pass {code}" if use.makes_copies else f"view it so, and go on with that: {name} = {code}"
        return f"if these are the bits of bfloat16, import ml_dtypes and {view}"
    if dtype.kind in "mM" or dtype.type is np.void or (dtype.kind == "O" and not all(map(_is_number, array.flat))):
        return "give an array of numbers"
    code = f"{name}.astype(np.{named_dtype(array)})"
    if use.makes_copies:
        return f"pass {code}"
    return f"convert it before, and go on with that one: {name} = {code}"


def other_dtype_of_gradient(grad: Any, param: Any) -> str:
    """Say what to do about a gradient, an ndarray, of another dtype than its parameter's."""
    given, wanted = READ.name, f"np.{dtype_of_gradient(param)}"
    if grad.dtype.names is not None:
        field = f"{given}[{grad.dtype.names[0]!r}]"
        return f"give its numbers alone, such as np.array({field}, {wanted})"
    if grad.dtype.type is np.void and grad.dtype.itemsize == 2:
        code = f"np.array({given}.view(ml_dtypes.bfloat16), {wanted})"
        return f"if these are the bits of bfloat16, import ml_dtypes and pass {code}"
    if grad.dtype.kind in "mM" or grad.dtype.type is np.void:
        return "give an array of numbers"
    if grad.dtype.kind == "c" and param.dtype.kind != "c":
        given += ".real"
    return f"convert it with np.array({given}, {wanted})"


def other_shape_of_gradient(grad: Any, param: Any) -> str:
    """Say what to do about a gradient, an ndarray, of another shape than its parameter's."""
    code = reshaped(grad.shape, param.shape)
    if code:
        return f"pass np.asarray(grad){code}"
    if grad.shape == param.shape[::-1]:
        return "if it is the transpose, pass grad.T"
    return "a gradient has a number for each of its parameter's, in the same shape"


def _module_of(value: Any) -> str:
    return str(getattr(type(value), "__module__", "")).partition(".")[0]
