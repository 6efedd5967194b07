"""Parameters packed into one flat buffer: `pack` and what it returns."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadam.memory import nesting, remedies
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.device import Device
from fastadam.memory.devices import device_of, kind_of, named, on_host
from fastadam.memory.host import HOST
from fastadam.memory.jax_arrays import refuse_parameter
from fastadam.memory.nesting import Nesting
from fastadam.memory.packed_arrays import PackedBuffer
from fastadam.memory.remedies import COPIED
from fastadam.memory.views import refuse_change, refuse_exchange
from fastadam.memory.words import counted, shown

if TYPE_CHECKING:
    from fastadam.memory.forms import Packable


class Packed:
    """Parameters and gradients in two flat buffers, with views of each array; made by `pack`.

    Attributes
    ----------
    param, grad : ndarray, shape (n,)
        All parameters and all gradients, one after another, aligned to 64 bytes. `grad` starts at zero.
    params, grads : sequence, mapping or named tuple of ndarray
        Views of `param` and `grad` in the arrays' own shapes, nested as the arrays that were packed: sequences for
        lists, mappings for mappings, tuples and named tuples within others for tuples.
        Write to their elements (``flat.grads["w"][...] = g``, ``flat.params[0] *= 2``); no array can be
        exchanged for another one, added or taken away, which an optimizer would not see. ``flat.params.copy()``
        is of lists, dicts and tuples that can be changed.
    names : list of str or None
        The arrays' paths, such as ``layers.0.w``; None where a list of arrays was packed.

    Notes
    -----
    What holds this object, one of these four or a view of them (a slice, a transpose) can be deep-copied or
    pickled together with the optimizer: steps of the copy move it. So a deep copy or a pickle of one view holds
    the whole buffer; one of ``view.copy()`` holds its numbers only. What does not show that it belongs here is
    copied as an array of its own, which no step moves: ``np.asarray(view)``, tensors over the memory.
    """

    # (Slots, so that no attribute whose name was misspelt, such as ``flat.gard``, is kept unused.)
    __slots__ = (
        "__weakref__",
        "_buffers",
        "_grad",
        "_grads",
        "_param",
        "_params",
        "classes",
        "grad_views",
        "names",
        "nesting",
        "param_views",
        "shapes",
    )

    Buffer = PackedBuffer  # pickles name this place
    names: list[str] | None
    classes: Sequence[type | None]
    shapes: list[tuple[int, ...]]
    # NumPy's arrays, or `fastadam.memory.cuda.arrays.CudaArray`: which, is not known to checkers.
    param_views: list[Any]
    grad_views: list[Any]

    def __init__(
        self,
        shapes: list[tuple[int, ...]],
        nesting: Nesting,
        classes: Sequence[type | None],
        dtype: np.dtype[Any],
        device: Device = HOST,
    ) -> None:
        buffers = (PackedBuffer(shapes, dtype, device, role) for role in ("param", "grad"))
        self._take(nesting, classes, *buffers)

    def _take(
        self, nesting: Nesting, classes: Sequence[type | None], param: PackedBuffer, grad: PackedBuffer
    ) -> None:
        self.nesting, self.classes = nesting, classes
        self.names, self.shapes = None if nesting.names is None else list(nesting.names), param.shapes
        self._buffers = param, grad
        self._param, self._grad = param.view(None), grad.view(None)
        self.param_views, self.grad_views = param.views(), grad.views()
        self._params = nesting.build(self.param_views, classes, "flat.params")
        self._grads = nesting.build(self.grad_views, classes, "flat.grads")

    def views_of(self, flat: Array) -> list[Array]:
        """Return views of a buffer of n elements, in the shapes of the packed arrays."""
        return self._buffers[0].split(flat)

    # The setters let `flat.grad += x` through, which works in place and then assigns the same array.
    @property
    def param(self) -> Any:
        """All parameters, one after another."""
        return self._param

    @param.setter
    def param(self, value: Array) -> None:
        refuse_exchange(value, self._param, "flat.param")

    @property
    def grad(self) -> Any:
        """All gradients, one after another."""
        return self._grad

    @grad.setter
    def grad(self, value: Array) -> None:
        refuse_exchange(value, self._grad, "flat.grad")

    @property
    def params(self) -> Any:
        """Views of the parameters."""
        return self._params

    @params.setter
    def params(self, value: Any) -> None:
        if value is not self._params:
            refuse_change("flat.params")

    @property
    def grads(self) -> Any:
        """Views of the gradients."""
        return self._grads

    @grads.setter
    def grads(self, value: Any) -> None:
        if value is not self._grads:
            refuse_change("flat.grads")

    if not TYPE_CHECKING:  # with one, checkers let all attributes pass

        def __getattr__(self, name: str) -> Any:  # called only where there is none of this name
            if name in _EMPTIED:
                raise ValueError(
                    "this packed buffer was resized (optimizer.resize), and holds nothing any more; go on with "
                    "the one that was returned: flat = optimizer.resize(...)"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        try:
            return self._described()
        except ValueError:
            return "<fastadam.Packed: resized, see optimizer.resize>"

    def _described(self) -> str:
        names = "" if self.names is None else f" ({', '.join(self.names)})"
        arrays = f"{counted(len(self.shapes), 'array')}{names}"
        return f"<fastadam.Packed: {arrays}, {self.param.size} x {self.param.dtype}>"

    # Views lead to the same buffers: whichever is copied or pickled first, each buffer is so once.
    def __getstate__(self) -> dict[str, Any]:
        param, grad = self._buffers
        state: dict[str, Any] = {"names": self.names, "param": param, "grad": grad}
        if self.nesting.is_nested or any(self.classes):
            state |= {"nesting": self.nesting.plain(), "classes": list(self.classes)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        names, param = state["names"], state["param"]
        if "nesting" in state:
            nested, classes = Nesting(*state["nesting"]), state["classes"]
        else:
            nested, classes = nesting.flat(names, len(param.shapes)), [None]
        self._take(nested, classes, param, state["grad"])

    def __copy__(self) -> Packed:
        return copy.deepcopy(self)


def pack(params: Packable, *, device: str | None = None) -> Packed:
    """Copy arrays into one flat, aligned buffer: the layout with the fastest step.

    The arrays that are given stay as they are, and no step moves them. Where a model holds some, let it hold the
    views in ``params`` from then on.

    Parameters
    ----------
    params : mapping, iterable, or nested containers of ndarray
        Arrays of one dtype that can be stepped, of any shapes and strides, in a list, a mapping, a named tuple,
        ``(name, array)`` pairs, or containers of these to any depth. They are copied and not changed. They can be
        on a CUDA device, where they are C-contiguous and of any of these dtypes but bfloat16.
    device : str, optional
        Where the buffers are to be: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. The default is where the first array
        is. On a device the views are `fastadam.memory.cuda.arrays.CudaArray`, which CuPy, torch and Numba wrap
        without a copy.

    Returns
    -------
    Packed
        Holds ``params`` and ``grads``, views in the same structure, and the whole buffers ``param`` and
        ``grad``. Compute with the views from then on, write gradients into ``grads`` (in place), and give
        the object to `fastadam.Adam`, which steps over it in one piece.

    Raises
    ------
    TypeError
        If an item is no array of a supported dtype, or the dtypes differ.
    ValueError
        If there is none, or an array or a container is given twice, whose copies would go different ways.
    BackendUnavailableError, MemoryError
        If the device cannot be used, or has not enough memory.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> flat = fastadam.pack({"w": np.ones((2, 2)), "b": np.zeros(2)})
    >>> optimizer = fastadam.Adam(flat, lr=0.1)
    >>> flat.grads["w"][...] = 1.0
    >>> flat.grads["b"][...] = -1.0
    >>> optimizer.step()
    >>> flat.params["b"]
    array([0.1, 0.1])
    """
    target = None if device is None else named(device)
    if isinstance(params, np.ndarray):
        raise TypeError("params is one array; pack takes several: fastadam.pack([array])")
    if not isinstance(params, Mapping):
        _check_iterable(params)
        params = nesting.as_pairs(params if isinstance(params, tuple) else list(params), "params")
    nested, values, classes = nesting.read(params, "params")
    keys = nested.containers[0].keys if nested.containers else ()
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if first.setdefault(key, i) < i:
            raise ValueError(f"params has the name {key!r} at {first[key]} and at {i}; give each name once")
    labels = [f"params{place}" for place in nested.places()]
    for value, label in zip(values, labels, strict=True):
        refuse_parameter(value, label)
    dtypes = ALL_DTYPES if target is None else target.DTYPES
    arrays = [
        kind_of(value).check_array(value, label, dtypes) for value, label in zip(values, labels, strict=True)
    ]
    if not arrays:
        raise ValueError("params is empty; pack needs at least one array")
    for array, label in zip(arrays, labels, strict=True):
        if array.dtype != arrays[0].dtype:
            raise TypeError(
                f"{label} has dtype {array.dtype}, {labels[0]} has {arrays[0].dtype}; a packed buffer has one "
                f"dtype: pack them apart, as two groups"
            )
    _refuse_twice(values, arrays, labels)
    if target is None:
        target = device_of(arrays[0])
    packed = Packed([array.shape for array in arrays], nested, classes, arrays[0].dtype, target)
    for view, array in zip(packed.param_views, arrays, strict=True):
        view[...] = array if target.holds(array) else on_host(array)
    return packed


def _refuse_twice(values: Sequence[Any], arrays: Sequence[Array], labels: Sequence[str]) -> None:
    """Refuse an array that is there twice, as the same object or as views of the same memory."""
    first: dict[Any, str] = {}
    for value, array, label in zip(values, arrays, labels, strict=True):
        places: list[Any] = [id(value)]
        if array.size:
            device = device_of(array)
            places.append((device, device.extent(array), array.size))
        for place in places:
            if place in first:
                raise ValueError(
                    f"{label} is the same array as {first[place]}; pack copies each array that it is given, and a "
                    f"step would part the two copies: give it once, and use its view in both places"
                )
        first.update(dict.fromkeys(places, label))


def _check_iterable(params: Any) -> None:
    """Refuse what holds no arrays, or can be iterated over by accident."""
    refuse_parameter(params, "params")
    if remedies.looks_like_an_array(params):
        raise TypeError(f"params {remedies.not_an_array(params, COPIED)}, in a list: fastadam.pack([...])")
    if isinstance(params, str | bytes | set | frozenset) or not isinstance(params, Iterable):
        raise TypeError(
            f"params must be arrays in a list, a mapping, or containers of these, got {shown(params)} of type "
            f"{type(params).__name__}; pack takes several arrays: fastadam.pack([array])"
        )


def empty_calls(packed: Packed) -> list[Callable[[], object]]:
    """Return native calls by which a buffer lets go of its memory, and refuses to be used from then on.

    Views that somebody has on the host become read-only: what is written there would be lost.
    """
    views = (*packed.param_views, *packed.grad_views, packed.param, packed.grad)
    locked = [functools.partial(each.setflags, write=False) for each in views if isinstance(each, np.ndarray)]
    return [*locked, *(functools.partial(delattr, packed, name) for name in _EMPTIED)]


# All that leads to the buffers.
_EMPTIED = ("_buffers", "_grad", "_grads", "_param", "_params", "param_views", "grad_views")
PackedBuffer.__module__, PackedBuffer.__qualname__ = "fastadam", "Packed.Buffer"
