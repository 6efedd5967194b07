"""What is known of an optimizer's tensors from the last steps, so that the next one is a single native call.

Everything in it may go stale between two steps: each attempt compares it with the objects as they are, and where
something has changed, nothing is written, and a step that is taken with care finds out anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array, address
from fastadam.memory.native import Block
from fastadam.memory.structs import CACHED_PARAM, GROUP_LIST, TENSOR_CACHE, TensorOffsets
from fastadam.step.plan import MOMENTS
from fastadam.torch.devices import dlpack_device
from fastadam.torch.fingerprints import Fingerprints
from fastadam.torch.staging import Part
from fastadam.torch.tensors import count_reals, dlpack_dtype, format_code

STATE_NAMES = ("step", *MOMENTS)
# What native code compares with, looks up and calls: kept here, as it has their addresses only.
_OBJECTS: dict[str, Any] = {
    "tensor_type": torch.Tensor,
    "parameter_type": torch.nn.Parameter,
    "none_object": None,
    "grad_name": "grad",
    "state_names": STATE_NAMES,
    "is_neg": torch.Tensor.is_neg,
    "is_conj": torch.Tensor.is_conj,
}


class Seen(NamedTuple):
    """A known parameter, as Python compares it."""

    objects: tuple[int, ...]  # of the state dict, the step counter and the moments
    step: int  # the counter's address
    addresses: tuple[int, ...]  # of the parameter and the moments
    device: torch.device
    like: Tensor  # a meta tensor of the same shape, strides and dtype


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
    params : ndarray of CACHED_PARAM
    group_of : ndarray of int64
        The group of each.
    known : ndarray of bool
        Which of them can be stepped where they lie, as far as is known.
    formats : ndarray of int64
        Codes of the formats of those.
    ordinals : list of int or None
        Numbers of their CUDA devices.
    extents : dict of list of (int, int)
        The addresses between which each one's parameter and moments lie.
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
        self.state = state
        self.param_ids = [id(param) for param in self.tensors()]
        n = len(self.param_ids)
        self.group_of = np.repeat(np.arange(len(self.lists)), [len(each) for each in self.lists])
        self.params = np.zeros(n, CACHED_PARAM.dtype)
        self.params["param_object"] = self.param_ids
        self.known = np.zeros(n, bool)
        self.formats = np.zeros(n, np.int64)
        self.ordinals: list[int | None] = [None] * n
        self.extents: dict[int, list[tuple[int, int]]] = {}
        self.seen: dict[int, Seen] = {}
        self.present = np.zeros(n, np.uint8)
        self.steps = np.zeros(n)
        self._dims: dict[int, Array] = {}
        self._fingerprints = Fingerprints(n, offsets)
        self.block = Block(TENSOR_CACHE)
        for name, kept in _OBJECTS.items():
            self.block[name] = id(kept)
        if offsets is not None:
            self.block["offsets"] = offsets
        self.block["read_tensor"], self.block["state_object"] = read_tensor, id(state)
        self.block["n"], self.block["n_lists"] = n, len(self.lists)
        for name, array in (
            ("params", self.params),
            ("present", self.present),
            ("steps", self.steps),
            ("grads", np.zeros(n, np.int64)),
            ("lists", np.array([(id(each), len(each)) for each in self.lists], GROUP_LIST.dtype)),
        ):
            self.block.point(name, array)
        self.note([])

    def tensors(self) -> list[Tensor]:
        """Return the parameters as they are in the groups now."""
        return [param for each in self.lists for param in each]

    def is_in(self, groups: Sequence[dict[str, Any]], state: Any) -> bool:
        """Whether these are the containers that the cache was made for."""
        return (
            state is self.state
            and len(groups) == len(self.lists)
            and all(group["params"] is each for group, each in zip(groups, self.lists, strict=True))
        )

    def holds_the_same(self) -> bool:
        """Whether the groups' lists hold the parameters that they held."""
        return [id(param) for param in self.tensors()] == self.param_ids

    def state_is_same(self) -> bool:
        """Whether the state holds the dicts that it held, under the same keys."""
        noted = (self._state_keys.tolist(), self._state_values.tolist())
        return noted == ([id(key) for key in self.state], [id(value) for value in self.state.values()])

    def note(self, parts: Sequence[Part]) -> None:
        """Take up parts that can be stepped where they lie."""
        for part in parts:
            i, param = part.position, part.param
            objects = (id(part.state), id(part.step), *map(id, part.moments))
            addresses = tuple(low for low, _ in part.extents)
            dims = self._dims[i] = np.array([*param.shape, *param.stride()], np.int64)
            tensors = (param, part.step, *part.moments)
            unused = [0] * (len(MOMENTS) - len(part.moments))
            self.params[i] = (  # in the order of CACHED_PARAM
                *(id(param), *objects, *unused),
                self._fingerprints.note(i, tensors, part.ordinal is not None),
                *(addresses[0], part.step.data_ptr(), *addresses[1:], *unused),
                *(param.dim(), address(dims), dlpack_dtype(param), dlpack_device(param)),
                *(count_reals(param), param.numel() * param.element_size(), part.step.element_size() == 8),
            )
            self.formats[i], self.ordinals[i] = format_code(param), part.ordinal
            self.extents[i] = part.extents
            like = param.new_empty_strided(param.shape, param.stride(), device="meta")
            self.seen[i] = Seen(objects, part.step.data_ptr(), addresses, param.device, like)
            self.known[i] = True
        self._state_keys = np.array([id(key) for key in self.state], np.int64)
        self._state_values = np.array([id(value) for value in self.state.values()], np.int64)
        self.block["n_state"] = len(self.state)
        self.block.point("state_keys", self._state_keys)
        self.block.point("state_values", self._state_values)
