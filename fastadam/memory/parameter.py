"""A parameter that carries its gradient."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

from fastadam.memory.arrays import Array
from fastadam.memory.arrived import make_own
from fastadam.memory.devices import check_parameter

if TYPE_CHECKING:
    from fastadam.memory.kinds import Parametric, Slope


class Parameter:
    """An array with a place for its gradient, so that ``optimizer.step()`` needs no arguments.

    Parameters
    ----------
    data : ndarray or array on a CUDA device
        float32, float64, bfloat16 (of ml_dtypes, on the host), float16, complex64 or complex128, any shape,
        C-contiguous and writable. It is not copied: the optimizer updates it in place.

    Attributes
    ----------
    data : ndarray
        The values. Write to its elements (``p.data[...] = x``); the array itself cannot be exchanged.
    grad : ndarray or None
        The gradient, of the same shape and a dtype that `fastadam.Adam.step` takes; None (at first) means that a
        step skips this parameter.

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

    if TYPE_CHECKING:  # what is read has the type of what was assigned, which is not known here

        @property
        def grad(self) -> Any:
            """The gradient."""

        @grad.setter
        def grad(self, value: Slope | None) -> None: ...
    else:
        __slots__ = ("__weakref__", "_data", "grad")

    def __init__(self, data: Parametric) -> None:
        check_parameter(data, "data")
        self._data: Array = data  # type: ignore[assignment]
        self.grad = None

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

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return super().__reduce_ex__(max(2, operator.index(protocol)))  # those before cannot take slots

    def __setstate__(self, state: Any) -> None:
        self._set(state)
        for array in (self._data, self.grad):
            make_own(array)

    def __copy__(self) -> Any:  # with the same arrays, none of which has arrived
        twin = type(self).__new__(type(self))
        twin._set(self.__reduce_ex__(2)[2])
        return twin

    def _set(self, state: Any) -> None:
        """Set the attributes: those of subclasses, or None, and those in slots."""
        for attributes in state:
            for name, value in (attributes or {}).items():
                setattr(self, name, value)

    def __repr__(self) -> str:
        return f"Parameter({self._data!r}, grad={self.grad!r})"


def exchange_calls(parameter: Parameter, data: Array) -> list[Callable[[], object]]:
    """Return native calls that give a parameter other values, and no gradient, as an optimizer resizes it."""
    slots: Any = Parameter.__dict__
    return [
        functools.partial(slots["_data"].__set__, parameter, data),
        functools.partial(slots["grad"].__set__, parameter, None),
    ]
