"""What is known of an optimizer's tensors from the last steps, so that the next one is a single native call.

Everything in it may go stale between two steps: each attempt compares it with the objects as they are, and where
something has changed, nothing is written, and a step that is taken with care finds out anew.

Native code compares addresses of objects. A reference to each of them is held here, so that none can become the
address of another object; what a user has thrown away lives until the next step at most.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array, address
from fastadam.memory.native import Block
from fastadam.memory.structs import MOMENTS, ROLES
from fastadam.memory.tensor_structs import CACHED_PARAM, GROUP_LIST, TENSOR_CACHE, TensorOffsets
from fastadam.torch.compact import BESIDE
from fastadam.torch.devices import dlpack_device
from fastadam.torch.fingerprints import Fingerprints
from fastadam.torch.part import Part
from fastadam.torch.tensors import count_reals, dlpack_dtype

STATE_NAMES = ("step", *MOMENTS, *BESIDE)
GRAD = "grad"  # the object whose address native code has
get_grad: Callable[[Tensor], Tensor | None] = operator.attrgetter(GRAD)


def fetch_gradients(params: Iterable[Tensor]) -> list[Tensor | None]:
    """Return the gradient of each parameter.

    This may run anyone's code (properties, function modes, finalizers), so it comes before anything is compared.
    """
    return list(map(get_grad, params))


class Seen(NamedTuple):
    """A known parameter, as Python compares it.

    Attributes
    ----------
    state : dict
    keys : tuple
        Those under which the state has the step counter and the other tensors of a step.
    objects : tuple of Tensor
        What it has there.
    step : int
        The counter's address.
    addresses : tuple of int
        Of the parameter and those.
    device : torch.device
    likes : tuple of Tensor
        Meta tensors of the same shapes, strides and dtypes as the parameter and those.
    likes_grad : Tensor
        One as the gradient was, lying like the parameter.
    """

    state: dict[str, Any]
    keys: tuple[str, ...]
    objects: tuple[Tensor, ...]
    step: int
    addresses: tuple[int, ...]
    device: torch.device
    likes: tuple[Tensor, ...]
    likes_grad: Tensor


class TensorCache:
    """All parameters of an optimizer, with the containers that they are found in.

    Parameters
    ----------
    groups : sequence of dict
        The optimizer's `param_groups`.
    state : dict
        Its `state`.
    offsets : TensorOffsets or None
        See `fastadam.torch.tensor_offsets`.
    read_tensor : int
        The address of DLPack's function that reads a tensor, or 0 where attempts are made in Python.

    Attributes
    ----------
    lists : list of list
        The groups' lists of parameters, the live objects.
    tensors : tuple of Tensor
        The parameters that they held when the cache was made.
    params : ndarray of CACHED_PARAM
    group_of : ndarray of int64
        The group of each.
    known : ndarray of bool
        Which of them can be stepped where they lie, as far as is known.
    has_state : ndarray of bool
        Which of them have been stepped before.
    formats : ndarray of int64, shape (5, n)
        Codes of the formats of those.
    beside : dict of ndarray of int64
        The addresses of what is beside moments in compact state, by name.
    ordinals : list of int or None
        Numbers of their CUDA devices.
    extents : dict of list of (int, int)
        The addresses between which each one's parameter and state lie.
    seen : dict of Seen
    present, steps : ndarray of uint8, ndarray of float64
        Filled by an attempt at a step: which gradients there are, and the step counters.
    block : Block of TENSOR_CACHE
        For native code.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        state: dict[Any, Any],
        offsets: TensorOffsets | None,
        read_tensor: int,
    ) -> None:
        self.lists: list[list[Tensor]] = [group["params"] for group in groups]
        held = [tuple(each) for each in self.lists]
        self.tensors = tuple(itertools.chain(*held))
        self.state = state
        n = len(self.tensors)
        self.group_of = np.repeat(np.arange(len(held)), [len(each) for each in held])
        self.params = np.zeros(n, CACHED_PARAM.dtype)
        self.params["param_object"] = [id(param) for param in self.tensors]
        self.known, self.has_state = np.zeros(n, bool), np.zeros(n, bool)
        self.formats = np.zeros((len(ROLES), n), np.int64)
        self.beside = {name: np.zeros(n, np.int64) for name in BESIDE}
        self._beside: dict[int, Array] = {}
        self.ordinals: list[int | None] = [None] * n
        self.extents: dict[int, list[tuple[int, int]]] = {}
        self.seen: dict[int, Seen] = {}
        self.present = np.zeros(n, np.uint8)
        self.steps = np.zeros(n)
        self._dims: dict[int, Array] = {}
        self._keys: dict[tuple[int, ...], Array] = {}  # kept once for all that are the same
        self._fingerprints = Fingerprints(n, offsets)
        self.block = Block(TENSOR_CACHE)
        for name, kept in (
            ("tensor_type", torch.Tensor),
            ("parameter_type", torch.nn.Parameter),
            ("none_object", None),
            ("grad_name", GRAD),
            ("state_object", self.state),
        ):
            self.block[name] = id(kept)
        if offsets is not None:
            self.block["offsets"] = offsets
        self.block["read_tensor"] = read_tensor
        self.block["n"], self.block["n_lists"] = n, len(self.lists)
        lists = [(id(each), len(params)) for each, params in zip(self.lists, held, strict=True)]
        for name, array in (
            ("params", self.params),
            ("present", self.present),
            ("steps", self.steps),
            ("lists", np.array(lists, GROUP_LIST.dtype)),
        ):
            self.block.point(name, array)
        self.note([])

    def is_in(self, groups: Sequence[dict[str, Any]], state: Any) -> bool:
        """Whether these are the containers that the cache was made for."""
        return (
            state is self.state
            and len(groups) == len(self.lists)
            and all(group["params"] is each for group, each in zip(groups, self.lists, strict=True))
        )

    def holds_the_same(self) -> bool:
        """Whether the groups' lists hold the parameters that they held."""
        return are_same(list(itertools.chain(*self.lists)), self.tensors)

    def state_is_same(self) -> bool:
        """Whether the state holds the dicts that it held, under the same keys."""
        return are_same(list(self.state), self._state_keys) and are_same(
            list(self.state.values()), self._state_values
        )

    def note(self, parts: Sequence[Part]) -> None:
        """Take up parts that can be stepped where they lie, as far as they are what the optimizer holds now.

        Whatever ran since they were stepped may have exchanged their state; what the optimizer does not hold any
        more is forgotten, also of other parameters.
        """
        items = list(dict.items(self.state))
        self._state_keys, self._state_values = [key for key, _ in items], [value for _, value in items]
        held = {id(param): state for param, state in items}
        for part in parts:
            self._note(part)
        for i, seen in list(self.seen.items()):
            if held.get(id(self.tensors[i])) is not seen.state:
                del self.seen[i]
                self.known[i] = False
        self.has_state[:] = [bool(held.get(id(tensor))) for tensor in self.tensors]
        self.block["n_state"] = len(items)
        self.block.point("state_keys", _ids(self._state_keys))
        self.block.point("state_values", _ids(self._state_values))

    def _note(self, part: Part) -> None:
        i, tensors = part.position, (part.param, part.step, *part.tensors)
        views = (part.written[0], part.counter, *part.written[1:])
        found = {name: key for key in list(part.state) for name in STATE_NAMES if key == name}
        keys = tuple(found[name] for name in ("step", *part.names) if name in found)
        if part.param is not self.tensors[i] or len(keys) < len(tensors) - 1:
            self.known[i] = False
            self.seen.pop(i, None)
            return
        view, n_moments = part.written[0], sum(name in MOMENTS for name in part.names)
        main = 2 + n_moments  # of tensors: those that each parameter has
        addresses = tuple(low for low, _ in part.extents)
        dims = self._dims[i] = np.array([*view.shape, *view.stride()], np.int64)
        objects = (id(part.param), id(part.state), *(id(each) for each in tensors[1:main]))
        unused = [0] * (len(MOMENTS) - n_moments)
        key_ids = (*map(id, keys[: main - 1]), *unused)
        entry_keys = self._keys.setdefault(key_ids, np.array(key_ids, np.int64))
        step = part.counter.data_ptr()
        beside, grad = self._beside_of(i, tensors[main:], keys[main - 1 :]), part.read
        prints = self._fingerprints.note(i, tensors, views, grad, n_main=main, on_device=part.ordinal is not None)
        self.params[i] = (  # in the order of CACHED_PARAM
            *(*objects, *unused, address(entry_keys)),
            prints.first,
            *(addresses[0], step, *addresses[1 : main - 1], *unused),
            *(view.dim(), address(dims), dlpack_dtype(view), dlpack_device(view)),
            *(count_reals(view), view.numel() * view.element_size(), part.counter.element_size() == 8),
            *(dlpack_dtype(grad), grad.numel() * grad.element_size(), prints.grad_layout),
            *(len(tensors) - main, beside, prints.beside),
        )
        for kept in self.beside.values():
            kept[i] = 0
        for name, low in zip(part.names[n_moments:], addresses[main - 1 :], strict=True):
            self.beside[name][i] = low
        self.formats[:, i], self.ordinals[i] = part.formats, part.ordinal
        self.extents[i] = part.extents
        likes = [_like(view, view.dtype)]
        for each in part.written[1:]:
            alike = part.layout.is_plain or (each.dtype, each.shape) == (view.dtype, view.shape)
            likes.append(likes[0] if alike else _like(each, each.dtype))
        likes_grad = likes[0] if grad.dtype == view.dtype else _like(view, grad.dtype)
        self.seen[i] = Seen(part.state, keys, tensors[1:], step, addresses, view.device, tuple(likes), likes_grad)
        self.known[i] = True

    def _beside_of(self, i: int, tensors: Sequence[Tensor], keys: Sequence[str]) -> int:
        """Return the address of the objects, and then the keys, of what is beside a parameter's moments, or 0."""
        if not tensors:
            return 0
        self._beside[i] = _ids([*tensors, *keys])
        return address(self._beside[i])


def _like(view: Tensor, dtype: torch.dtype) -> Tensor:
    return view.new_empty_strided(view.shape, view.stride(), dtype=dtype, device="meta")


def are_same(found: Sequence[object], noted: Sequence[object]) -> bool:
    """Whether these are the same objects, in the same order."""
    return len(found) == len(noted) and all(map(operator.is_, found, noted))


def _ids(objects: Sequence[object]) -> Array:
    return np.array([id(each) for each in objects], np.int64)
