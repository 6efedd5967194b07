"""The host as a device: NumPy arrays."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.memory import arrays
from fastadam.memory.arrays import Array, Dtypes
from fastadam.memory.buffers import aligned_zeros
from fastadam.memory.device import Call, CheckGradient, Device, Slots, Watch
from fastadam.memory.jax_arrays import is_jax_array

try:
    from numpy.lib.array_utils import byte_bounds
except ImportError:  # NumPy 1
    from numpy import byte_bounds  # type: ignore[no-redef,attr-defined]


class Host(Device):
    """The host (see `Device`)."""

    NAME = "cpu"
    ONE, MANY = "a NumPy array", "NumPy arrays"
    DTYPES = arrays.ALL_DTYPES
    MIXES = True
    NATIVE = True

    def __repr__(self) -> str:
        return self.NAME

    @classmethod
    def numbered(cls, number: int) -> Device:
        """Return the host, which is one."""
        return HOST

    @classmethod
    def names(cls) -> tuple[list[str], str | None]:
        """Return its only name."""
        return [cls.NAME], None

    @classmethod
    def holds(cls, value: Any) -> bool:
        """Whether `value` is a NumPy array."""
        return isinstance(value, np.ndarray)

    @classmethod
    def check_array(cls, value: Any, label: str, dtypes: Dtypes) -> Array:
        """Return `value` as a base-class ndarray."""
        return arrays.check_array(value, label, dtypes)

    @classmethod
    def check_parameter(cls, value: Any, label: str) -> Array:
        """Return `value` as an ndarray that kernels may update in place."""
        return arrays.check_parameter(value, label)

    @classmethod
    def check_gradient(cls, value: Any, param: Array, label: str) -> Array:
        """Return `value` as an ndarray of a dtype that `param` takes and of its shape, of any strides."""
        return arrays.check_gradient(value, param, label)

    @classmethod
    def dtype_of_gradient(cls, value: Any, own: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of `value`, or of a view of a JAX array."""
        if not isinstance(value, np.ndarray) and is_jax_array(value):
            dtype = getattr(value, "dtype", None)  # tracers and keys have others than NumPy's
            value = np.empty(0, dtype if isinstance(dtype, np.dtype) else own)
        return arrays.dtype_of_gradient(value, own)

    @classmethod
    def check_fillable(cls, value: Any, label: str) -> None:
        """Refuse what is no NumPy array, or read-only."""
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{label} is a {type(value).__name__}; use zero_grad(set_to_none=True)")
        if not value.flags.writeable:
            raise ValueError(f"{label} is read-only; use zero_grad(set_to_none=True)")

    @classmethod
    def check_zeroed(cls, value: Any, grad: Array, label: str) -> None:
        """Refuse what is read from a copy, or is read-only."""
        given = arrays.base_view(value) if isinstance(value, np.ndarray) else None
        if given is None or arrays.address(given) != arrays.address(grad) or not given.flags.c_contiguous:
            raise ValueError(
                f"{label} is read from a copy, as it is no NumPy array that is C-contiguous and aligned, so that "
                f"zero_grad=True cannot fill it; go on with np.ascontiguousarray of it, or leave zero_grad=False"
            )
        if not given.flags.writeable:
            raise ValueError(
                f"{label} is read-only, and zero_grad=True fills it; go on with a copy, or leave zero_grad=False"
            )

    @classmethod
    def shape_of(cls, value: Any) -> tuple[int, ...]:
        """Return the shape."""
        shape: tuple[int, ...] = value.shape
        return shape

    @classmethod
    def own_view(cls, value: Any) -> Any:
        """Return `value` itself."""
        return value

    @classmethod
    def on_host(cls, value: Any, *, copy: bool = False) -> Array:
        """Return `value` itself, or a copy of it."""
        return value.copy() if copy else np.asarray(value)

    @classmethod
    def of(cls, array: Any) -> Device:
        """Return the host."""
        return HOST

    @classmethod
    def look_again(cls, owner: Any, array: Array, label: str) -> Array:
        """Return `owner` as a base-class array: a view made earlier does not show what became of it."""
        return arrays.base_view(owner)

    @classmethod
    def address(cls, array: Array) -> int:
        """Return the address of the first element."""
        return arrays.address(array)

    @classmethod
    def extent(cls, array: Array) -> tuple[int, int]:
        """Return the addresses between which an array of any strides lies."""
        if not array.flags.c_contiguous:
            return byte_bounds(array)
        start = arrays.address(array)  # sooner than by its strides
        return start, start + array.nbytes

    @classmethod
    def is_contiguous(cls, array: Array) -> bool:
        """Whether an array is C-contiguous."""
        return array.flags.c_contiguous

    @classmethod
    def contiguous(cls, array: Array) -> Array:
        """Return an array that is C-contiguous and aligned."""
        return array if array.flags.c_contiguous and array.flags.aligned else np.array(array, order="C")

    @classmethod
    def as_reals(cls, array: Array) -> Array:
        """Return a 1-D view, in which complex numbers are pairs of reals."""
        return arrays.as_reals(array)

    @classmethod
    def copy_calls(cls, target: Array, numbers: Array) -> list[Call]:
        """Return an assignment."""
        return [functools.partial(operator.setitem, arrays.base_view(target), ..., numbers)]

    @classmethod
    def clear_calls(cls, target: Array) -> list[Call]:
        """Return an assignment."""
        return [functools.partial(operator.setitem, arrays.base_view(target), ..., 0)]

    def exchange_calls(self, pairs: Sequence[tuple[Array, Array]]) -> list[Call]:
        """Return ufuncs that work on the bits, without a third array."""
        calls: list[Call] = []
        for pair in pairs:
            one, other = (arrays.as_reals(each) for each in pair)
            bits = np.dtype(f"u{one.itemsize}")
            one, other = one.view(bits), other.view(bits)
            steps = ((one, other, one), (one, other, other), (one, other, one))
            calls += [functools.partial(np.bitwise_xor, *each) for each in steps]
        return calls

    def check_returned(self, returned: Sequence[Any]) -> None:
        """Nothing is returned here."""

    def owns(self, address: int) -> bool:
        """Return True: the host has no way to tell."""
        return True

    def zeros(self, size: int, dtype: np.dtype[Any], role: str) -> Array:
        """Return zeros in a buffer of their own."""
        return aligned_zeros(size, dtype, role)

    def watch(self, slots: Slots, check: CheckGradient, backend: Any) -> Watch:
        """Return what looks at NumPy arrays."""
        return _Watch(slots, check)


class _Watch:
    """Looks at NumPy arrays: at all of it in each step, because shape, dtype and memory can change in place."""

    settled = False

    def __init__(self, slots: Slots, check: CheckGradient) -> None:
        self._slots, self._check = slots, check

    def look(self, grads: Sequence[Any]) -> tuple[list[int], list[Array]]:
        """Check all parameters and gradients (see `fastadam.memory.device.Watch`)."""
        slots = self._slots
        known = zip(
            slots.owners, slots.labels, slots.addresses.tolist(), slots.sizes.tolist(), slots.dtypes, strict=True
        )
        for slot, (owner, label, address, size, dtype) in enumerate(known):
            # Those that are idle are only read.
            is_stepped = slot < len(grads)
            array = arrays.check_parameter(owner, label, is_taken=True) if is_stepped else arrays.base_view(owner)
            # The very dtype, as native code knows it by its address.
            same = array.flags.c_contiguous and arrays.address(array) == address and array.dtype is dtype
            if not same or arrays.as_reals(array).size != size:
                raise ValueError(
                    f"the memory or dtype of {label} was exchanged since the optimizer took it; make a new "
                    f"optimizer for it"
                )
        checked = [  # some are copies
            self._check(grad, array, f"the gradient of {label}")
            for grad, array, label in zip(grads, slots.arrays, slots.labels, strict=False)
        ]
        for grad, dtype, label in zip(checked, slots.grad_dtypes, slots.labels, strict=False):
            if grad.dtype != dtype:
                raise TypeError(
                    f"the gradient of {label} was {dtype} when step looked for its dtype, and is {grad.dtype}; no "
                    f"other thread may change it meanwhile"
                )
        return [arrays.address(grad) for grad in checked], checked

    def prepare(self) -> None:
        """Nothing is under way."""


HOST = Host(0)
