"""Flat buffers: aligned memory for the moments, and parameters packed into one array."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.memory.arrays import DTYPES, SUPPORTED, Array, OnDevice, host_copy
from fastadam.memory.cuda.arrays import parse_device, zeros
from fastadam.memory.devices import check_array, device_of
from fastadam.memory.structs import ROLES

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
HUGE_PAGE = 2 << 20  # bytes; the usual transparent huge page
HUGE_FROM = 2 * HUGE_PAGE  # smaller buffers gain nothing from whole huge pages
# A kernel goes through these buffers side by side, and each has its own place within a page: depending on
# the pages, a step over buffers that begin together, or a few lines apart, can take half as long again
# (docs/performance.md, "Where buffers begin").
PAGE = 4096  # bytes
SPREAD = 77 * ALIGNMENT  # from one to the next: a page, and 13 lines, a fifth of a page
# Small buffers keep to their page; larger ones spread over pages, too, which second-level caches count. The
# smallest begin at any line: a step over them is no slower for it, and there may be thousands.
PLACED_FROM = 1 << 10  # bytes
SPREAD_FROM = 128 << 10


def aligned_zeros(size: int, dtype: np.dtype[Any], role: str, device: int | None = None) -> Array:
    """Return `size` zeros in a buffer of their own that starts at a multiple of 64 bytes.

    Parameters
    ----------
    size : int
        Number of elements.
    dtype : dtype
        Any NumPy dtype.
    role : str
        One of `ROLES`: what a step will take them for.
    device : int, optional
        Number of the CUDA device on which they are to be; None for the host.

    Returns
    -------
    ndarray or CudaArray, shape (size,)
        On the host, buffers of 4 MiB and more lie in transparent huge pages, where the system has them; their
        pages are taken up as they are first written.

    Raises
    ------
    MemoryError
        If the system has not that much memory.
    """
    if device is not None:
        return zeros(size, dtype, device)  # type: ignore[return-value]
    nbytes = size * dtype.itemsize
    alignment, start = _place(nbytes, role)
    if alignment == HUGE_PAGE:
        raw = _huge_pages(nbytes + start + alignment)
    else:
        # Unlike memory of its own, memory that an array borrows cannot be resized away under native code.
        raw = np.frombuffer(bytearray(nbytes + start + alignment), np.uint8)
    offset = -int(raw.__array_interface__["data"][0]) % alignment + start
    return raw[offset : offset + nbytes].view(dtype)


def _place(nbytes: int, role: str) -> tuple[int, int]:
    """Return how a buffer's memory is aligned, and how many bytes from there the buffer begins."""
    if nbytes < PLACED_FROM:
        return ALIGNMENT, 0
    start = ROLES.index(role) * SPREAD
    if nbytes < SPREAD_FROM:
        return PAGE, start % PAGE
    return HUGE_PAGE if nbytes >= HUGE_FROM and hasattr(mmap, "MADV_HUGEPAGE") else PAGE, start


def _huge_pages(nbytes: int) -> Array:
    try:
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot reserve {nbytes} bytes: {error}") from error
    with contextlib.suppress(OSError):  # a kernel without them: ordinary pages hold the same numbers
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class Packed:
    """Parameters and gradients in two flat buffers, with views of each array; made by `pack`.

    Attributes
    ----------
    param, grad : ndarray, shape (n,)
        All parameters and all gradients, one after another, aligned to 64 bytes. `grad` starts at zero.
    params, grads : list or dict of ndarray
        Views of `param` and `grad` in the arrays' own shapes: a dict where a mapping was packed, else a list.
        Write to their elements (``flat.grads["w"][...] = g``); no array can be exchanged for another one,
        which an optimizer would not see.
    """

    def __init__(
        self,
        shapes: list[tuple[int, ...]],
        names: list[str] | None,
        dtype: np.dtype[Any],
        device: int | None = None,
    ) -> None:
        self.names = names
        self.shapes = shapes
        self._ends = np.cumsum([int(np.prod(shape)) for shape in shapes], dtype=np.int64).tolist()
        self._param = aligned_zeros(self._ends[-1], dtype, "param", device)
        self._grad = aligned_zeros(self._ends[-1], dtype, "grad", device)
        self.param_views = self.views_of(self._param)
        self.grad_views = self.views_of(self._grad)
        self._params, self._grads = (
            _Views(views) if names is None else _NamedViews(zip(names, views, strict=True))
            for views in (self.param_views, self.grad_views)
        )

    def views_of(self, flat: Array) -> list[Array]:
        """Return views of a buffer of n elements, in the shapes of the packed arrays."""
        starts = [0, *self._ends[:-1]]
        return [
            flat[start:end].reshape(shape)
            for shape, start, end in zip(self.shapes, starts, self._ends, strict=True)
        ]

    # The setters let `flat.grad += x` through, which works in place and then assigns the same array.
    @property
    def param(self) -> Array:
        """All parameters, one after another."""
        return self._param

    @param.setter
    def param(self, value: Array) -> None:
        _refuse_exchange(value, self._param, "param")

    @property
    def grad(self) -> Array:
        """All gradients, one after another."""
        return self._grad

    @grad.setter
    def grad(self, value: Array) -> None:
        _refuse_exchange(value, self._grad, "grad")

    @property
    def params(self) -> Any:
        """Views of the parameters."""
        return self._params

    @property
    def grads(self) -> Any:
        """Views of the gradients."""
        return self._grads

    def __repr__(self) -> str:
        names = "" if self.names is None else f" ({', '.join(self.names)})"
        return f"<fastadam.Packed: {len(self.shapes)} arrays{names}, {self.param.size} x {self.param.dtype}>"

    # The views must be made anew over the copied buffers, so copies and pickles carry the numbers only.
    def __getstate__(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "names": self.names, "param": self.param, "grad": self.grad}

    def __setstate__(self, state: dict[str, Any]) -> None:
        param = state["param"]
        self.__init__(state["shapes"], state["names"], param.dtype, device_of(param))  # type: ignore[misc]
        self.param[...] = state["param"]
        self.grad[...] = state["grad"]


def _refuse_exchange(value: Any, current: Any, name: str) -> None:
    if value is not current:
        raise AttributeError(
            f"the packed array {name} cannot be exchanged for another one, which an optimizer would not see; "
            f"write its elements: {name}[...] = value"
        )


class _Views(list[Array]):
    """Views by position, which cannot be exchanged."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            _refuse(self)
        _refuse_exchange(value, self[key], f"[{key}]")

    def __reduce__(self) -> Any:
        return list, (list(self),)


class _NamedViews(dict[str, Array]):
    """Views by name, which cannot be exchanged."""

    def __setitem__(self, key: str, value: Any) -> None:
        _refuse_exchange(value, self.get(key), f"[{key!r}]")

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def _refuse(*_: Any, **__: Any) -> Any:
    raise AttributeError(
        "the arrays of a packed buffer cannot be exchanged, added or taken away, which an optimizer would not "
        "see; write the elements of each one: view[...] = value"
    )


for _name in [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
    "__delitem__",
    "__iadd__",
    "__imul__",
]:
    setattr(_Views, _name, _refuse)
for _name in ["clear", "pop", "popitem", "setdefault", "update", "__delitem__", "__ior__"]:
    setattr(_NamedViews, _name, _refuse)


def pack(params: Any, *, device: str | None = None) -> Packed:
    """Copy arrays into one flat, aligned buffer: the layout with the fastest step.

    Parameters
    ----------
    params : mapping of str to ndarray, or iterable of ndarray
        Arrays of one dtype (float32, float64, complex64 or complex128), of any shapes and strides. They are
        copied and not changed. They can be on a CUDA device, where they are C-contiguous and can be float16 too.
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
        If there is none.
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
    names: list[str] | None = None
    place = None if device is None else parse_device(device)
    if isinstance(params, np.ndarray):
        raise TypeError("params is one array; pack takes several: fastadam.pack([array])")
    if isinstance(params, Mapping):
        names, values = list(params.keys()), list(params.values())
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"params has the key {name!r}; names must be strings")
    else:
        values = list(params)
    labels = [f"params[{name!r}]" for name in (names if names is not None else range(len(values)))]
    arrays = [check_array(value, label, place) for value, label in zip(values, labels, strict=True)]
    if not arrays:
        raise ValueError("params is empty; pack needs at least one array")
    for array, label in zip(arrays, labels, strict=True):
        if array.dtype != arrays[0].dtype:
            raise TypeError(
                f"{label} has dtype {array.dtype}, {labels[0]} has {arrays[0].dtype}; a packed buffer has one "
                f"dtype: pack them apart, as two groups"
            )
    if device is None:
        place = device_of(arrays[0])
    if place is None and arrays[0].dtype not in DTYPES:
        raise TypeError(
            f"{labels[0]} has dtype {arrays[0].dtype}, which only CUDA devices take; supported on the host are "
            f"{SUPPORTED}"
        )
    packed = Packed([array.shape for array in arrays], names, arrays[0].dtype, place)
    for view, array in zip(packed.param_views, arrays, strict=True):
        view[...] = host_copy(array) if place is None and isinstance(array, OnDevice) else array
    return packed
