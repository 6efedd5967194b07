"""CUDA devices as devices: what `fastadam.memory.devices` finds by name."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from fastadam.memory.arrays import Array, Dtypes
from fastadam.memory.cuda import available
from fastadam.memory.cuda.arrays import (
    DTYPES,
    CudaArray,
    Description,
    check_returned,
    describe,
    device_at,
    exchange_calls,
    is_on_cuda,
    wrap,
    zeros,
)
from fastadam.memory.device import Call, CheckGradient, Device, Slots, Watch
from fastadam.memory.host import Host
from fastadam.memory.words import name_of


class Waiting(Protocol):
    """What a backend offers on whose device other work may be under way."""

    def wait_for(self, streams: Collection[int]) -> None:
        """Let the next steps wait for what these streams hold, and the streams for them."""


class CudaDevice(Device):
    """A CUDA device (see `Device`). Checked arrays are `CudaArray`."""

    NAME = "cuda"
    ONE, MANY = "on a CUDA device", "arrays on CUDA devices"
    DTYPES = DTYPES
    MIXES = False
    NATIVE = False

    @classmethod
    @functools.cache
    def numbered(cls, number: int) -> Device:
        """Return the device of this number, whether or not there is one."""
        return cls(number)

    @classmethod
    def names(cls) -> tuple[list[str], str | None]:
        """Return what the driver calls the devices, and why there are none."""
        return available.devices()

    @classmethod
    def holds(cls, value: Any) -> bool:
        """Whether `value` is an array of any library on a CUDA device."""
        return is_on_cuda(value)

    @classmethod
    def check_array(cls, value: Any, label: str, dtypes: Dtypes) -> Any:
        """Return `value` as a `CudaArray`, of any dtype that there is on devices."""
        return wrap(value, label)

    @classmethod
    def check_parameter(cls, value: Any, label: str) -> Any:
        """Return `value` as a `CudaArray` that kernels may update in place.

        Raises
        ------
        TypeError, ValueError
            If it is not C-contiguous, writable and of a supported dtype.
        """
        description, _ = describe(value, label)
        if description.data[1]:
            raise ValueError(f"{label} is read-only; parameters are updated in place, so pass a writable copy")
        return wrap(value, label, description)

    @classmethod
    def check_gradient(cls, value: Any, param: Any, label: str) -> Any:
        """Return `value` as a `CudaArray` of the dtype and shape of `param`, and on its device.

        Raises
        ------
        TypeError, ValueError
            If it is not so, or not C-contiguous.
        """
        if not is_on_cuda(value):
            raise TypeError(
                f"{label} is a {name_of(value)} and not on a CUDA device, its parameter is on device "
                f"{param.device}; copy it there, and use None for a parameter without a gradient"
            )
        grad = wrap(value, label)
        if grad.dtype != param.dtype:
            raise TypeError(f"{label} has dtype {grad.dtype}, its parameter has {param.dtype}; convert it")
        if grad.shape != param.shape:
            raise ValueError(f"{label} has shape {grad.shape}, its parameter has {param.shape}")
        if grad.size and grad.device != param.device:
            raise ValueError(
                f"{label} is on CUDA device {grad.device}, its parameter on device {param.device}; copy it there"
            )
        return grad

    @classmethod
    def dtype_of_gradient(cls, value: Any, own: np.dtype[Any]) -> np.dtype[Any]:
        """Return the parameter's dtype, which alone is taken."""
        return own

    @classmethod
    def check_fillable(cls, value: Any, label: str) -> None:
        """Refuse what cannot be written; the array's own library fills it, in its stream."""
        if not hasattr(type(value), "__setitem__"):
            Host.check_fillable(value, label)
        cls.check_parameter(value, label)

    @classmethod
    def check_zeroed(cls, value: Any, grad: Any, label: str) -> None:
        """Refuse what its library calls read-only."""
        if not isinstance(value, CudaArray) and describe(value, label)[0].data[1]:
            raise ValueError(
                f"{label} is read-only, and zero_grad=True fills it; pass a copy, or leave zero_grad=False"
            )

    @classmethod
    def shape_of(cls, value: Any) -> tuple[int, ...]:
        """Return the shape that the interface says."""
        return describe(value, "the array")[0].shape

    @classmethod
    def own_view(cls, value: Any) -> CudaArray:
        """Return a `CudaArray`."""
        return wrap(value, "the array")

    @classmethod
    def on_host(cls, value: Any, *, copy: bool = False) -> Array:
        """Return a copy."""
        return wrap(value, "the array").copy_to_host()

    @classmethod
    def of(cls, array: Any) -> Device:
        """Return the device that an array is on."""
        return cls.numbered(wrap(array, "the array").device)

    @classmethod
    def look_again(cls, owner: Any, array: Any, label: str) -> Any:
        """Return `owner` as a `CudaArray`, which is no live view: `array` knows nothing of what became of it."""
        found = cls.check_parameter(owner, label)
        if found.address != array.address:
            raise ValueError(f"the memory of {label} was exchanged; make a new optimizer for it")
        return found

    @classmethod
    def address(cls, array: Any) -> int:
        """Return the address of the first element."""
        address: int = array.address
        return address

    @classmethod
    def extent(cls, array: Any) -> tuple[int, int]:
        """Return the addresses between which an array lies."""
        return array.address, array.address + array.nbytes

    @classmethod
    def is_contiguous(cls, array: Any) -> bool:
        """Return True: there is no `CudaArray` that is not."""
        return True

    @classmethod
    def contiguous(cls, array: Any) -> Any:
        """Return `array` itself."""
        return array

    @classmethod
    def as_reals(cls, array: Any) -> Any:
        """Return a 1-D view, in which complex numbers are pairs of reals."""
        return array.as_reals()

    @classmethod
    def copy_calls(cls, target: Any, numbers: Array) -> list[Call]:
        """Return the driver's calls for it, which keep the numbers."""
        return wrap(target, "the array").copy_calls(numbers)

    @classmethod
    def clear_calls(cls, target: Any) -> list[Call]:
        """Return the driver's calls for it."""
        return wrap(target, "the array").clear_calls()

    def exchange_calls(self, pairs: Sequence[tuple[Any, Any]]) -> list[Call]:
        """Return the driver's calls for it."""
        return exchange_calls(pairs, self.number)

    def check_returned(self, returned: Sequence[Any]) -> None:
        """Raise what the first code of the driver stands for that is an error's."""
        check_returned(returned, self.number)

    def owns(self, address: int) -> bool:
        """Whether the driver says that an address is in this device's memory."""
        return device_at(address, self.number) == self.number

    def zeros(self, size: int, dtype: np.dtype[Any], role: str) -> Any:
        """Return zeros in a buffer of their own; whatever its role, the driver places it."""
        return zeros(size, dtype, self.number)

    def watch(self, slots: Slots, check: CheckGradient, backend: Waiting) -> Watch:
        """Return what looks at arrays on CUDA devices."""
        return _Watch(slots, check, backend)


class _Watch:
    """Looks at arrays on one CUDA device.

    An array of another library is looked at in every step: where the CUDA array interface says what it said
    before, it is known to be right, else it is checked anew. The streams that the interface names are waited for,
    and wait for the step, on the device.
    """

    def __init__(self, slots: Slots, check: CheckGradient, backend: Waiting) -> None:
        self._slots, self._check, self._backend = slots, check, backend
        n = len(slots.owners)
        # What was found of each array when it was right; those of the library's own never change. Gradients that
        # are read-only are checked each time, as there are steps that write them.
        self._owners_known: list[Description | None] = [None] * n
        self._grads_known: list[Description | CudaArray | None] = [None] * n
        self._addresses: list[int] = [0] * n  # of the gradients
        self._streams: set[int] = set()
        self.settled = False

    def look(self, grads: Sequence[Any]) -> tuple[list[int], Sequence[Any]]:
        """Check all parameters and gradients (see `fastadam.memory.device.Watch`)."""
        self.settled = False
        self._streams.clear()
        for slot, owner in enumerate(self._slots.owners):
            self._look_at_owner(slot, owner)
        for slot, grad in enumerate(grads):
            self._look_at_gradient(slot, grad)
        self.settled = all(isinstance(each, CudaArray) for each in (*grads, *self._slots.owners))
        return self._addresses[: len(grads)], ()

    def prepare(self) -> None:
        """Have the step wait for the streams in which its arrays are made."""
        self._backend.wait_for(self._streams)

    def _look_at_owner(self, slot: int, owner: Any) -> None:
        if isinstance(owner, CudaArray):
            return
        label = self._slots.labels[slot]
        found, stream = describe(owner, label)
        self._hear(stream)
        if found == self._owners_known[slot]:
            return
        array: Any = self._slots.arrays[slot]
        now = CudaDevice.check_parameter(owner, label)
        if (now.address, now.shape, now.dtype) != (array.address, array.shape, array.dtype):
            raise ValueError(f"the memory, shape or dtype of {label} was exchanged; make a new optimizer for it")
        self._owners_known[slot] = found

    def _look_at_gradient(self, slot: int, grad: Any) -> None:
        if grad is self._grads_known[slot]:
            return
        label = f"the gradient of {self._slots.labels[slot]}"
        found: Description | CudaArray | None = None
        if isinstance(grad, CudaArray):
            found = grad
        elif is_on_cuda(grad):
            found, stream = describe(grad, label)
            self._hear(stream)
            if found == self._grads_known[slot]:
                return
            found = None if found.data[1] else found
        array: Any = self._check(grad, self._slots.arrays[slot], label)
        self._grads_known[slot], self._addresses[slot] = found, array.address

    def _hear(self, stream: int | None) -> None:
        if stream is not None:
            self._streams.add(stream)


KIND = CudaDevice
