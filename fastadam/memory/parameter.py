"""A parameter that carries its gradient."""

from __future__ import annotations

from typing import Any

from fastadam.memory.arrays import Array
from fastadam.memory.arrived import make_own
from fastadam.memory.devices import check_parameter


class Parameter:
    """An array with a place for its gradient, so that ``optimizer.step()`` needs no arguments.

    Parameters
    ----------
    data : ndarray or array on a CUDA device
        float32, float64, complex64 or complex128 (on CUDA devices float16 too), any shape, C-contiguous and
        writable. It is not copied:
        the optimizer updates it in place.

    Attributes
    ----------
    data : ndarray
        The values. Write to its elements (``p.data[...] = x``); the array itself cannot be exchanged.
    grad : ndarray or None
        The gradient, of the same shape and dtype; None (at first) means that a step skips this parameter.

    Raises
    ------
    TypeError, ValueError
        If `data` cannot be updated in place.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> p = fastadam.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = fastadam.Adam([p], lr=0.1)
    >>> p.grad = np.array([3.0, -3.0])
    >>> optimizer.step()
    >>> p.data
    array([0.9, 2.1])
    """

    __slots__ = ("__weakref__", "_data", "grad")

    def __init__(self, data: Array) -> None:
        check_parameter(data, "data")
        self._data = data
        self.grad: Any = None

    @property
    def data(self) -> Array:
        """The values, updated in place by the optimizer."""
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        # `p.data -= x` works in place and then assigns the same array; only an exchange is refused.
        if value is not self._data:
            raise AttributeError(
                "Parameter.data cannot be exchanged for another array, which an optimizer would not see; "
                "write its elements: p.data[...] = value"
            )

    def __getstate__(self) -> Any:
        # What `object` has (with None, or what subclasses have of their own), which protocols 0 and 1 do without.
        return getattr(self, "__dict__", None), {"_data": self._data, "grad": self.grad}

    def __setstate__(self, state: Any) -> None:
        of_subclasses, own = state
        for name, value in {**(of_subclasses or {}), **own}.items():
            make_own(value)
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"Parameter({self._data!r}, grad={self.grad!r})"
