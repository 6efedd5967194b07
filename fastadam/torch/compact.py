"""State and weights in the formats that only a step writes, as torch tensors: how they lie, decoded, encoded.

`fastadam.step.precision` says which formats the options ask for, `fastadam.step.compact` what they are. All of it
lies in ``optimizer.state[param]``, under the names that it has in NumPy's face. What is in the parameter's own
format lies like the parameter, as in torch; else all of a parameter's arrays lie in C order, as blocks and random
bits are counted in it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array
from fastadam.memory.formats import (
    BFLOAT16,
    BFLOAT16_MASTER,
    BFLOAT16_STOCHASTIC,
    FLOAT16_MASTER,
    INT8,
    ROOT8,
    Format,
)
from fastadam.memory.structs import MASTER, MOMENTS, SCALE_BLOCK, SCALES
from fastadam.step.compact import count_blocks
from fastadam.step.compact_arrays import decode, encode
from fastadam.step.hyperparameters import DEFAULTS, Hyperparameters
from fastadam.step.precision import Kept, formats_of, kept_of
from fastadam.torch.tensors import DTYPES

# What state can have beside the step counter and the moments.
BESIDE = (MASTER, *SCALES.values())
# The formats of moments that are known by their dtype.
BLOCKS = {torch.int8: INT8, torch.uint8: ROOT8}


class Stored(NamedTuple):
    """One tensor of a parameter's state.

    Attributes
    ----------
    dtype : torch.dtype
    kept : Kept
    """

    dtype: torch.dtype
    kept: Kept

    def shape(self, param: Tensor) -> tuple[int, ...]:
        """Return its shape, for a parameter."""
        return self.kept.shape(tuple(param.shape), DTYPES[param.dtype].reals)

    def zeros(self, param: Tensor) -> Tensor:
        """Return one of zeros, for a parameter."""
        if self.kept.stored is None:
            return torch.zeros_like(param, memory_format=torch.preserve_format)
        return torch.zeros(self.shape(param), dtype=self.dtype, device=param.device)


class Layout(NamedTuple):
    """How a parameter and its state lie.

    Attributes
    ----------
    formats : tuple of int
        The codes of the formats of `fastadam.memory.structs.ROLES`; that of the gradient as if it were the
        parameter's.
    stored : dict of Stored
        The tensors of the state by name, with those that amsgrad needs.
    is_plain : bool
        Whether all of it is as torch has it.
    """

    formats: tuple[int, ...]
    stored: dict[str, Stored]
    is_plain: bool

    def names(self, amsgrad: bool) -> tuple[str, ...]:
        """Return the names of the tensors that a step needs: moments, and then what is beside them."""
        moments = MOMENTS[: 3 if amsgrad else 2]
        wanted = (*moments, MASTER, *(SCALES[name] for name in moments))
        return tuple(name for name in wanted if name in self.stored)


def layout_of(hyper: Hyperparameters, dtype: torch.dtype) -> Layout:
    """Return how parameters of a dtype, and their state, lie by the options of their group."""
    return _layout_of(hyper.state_dtype, hyper.master_weights, hyper.rounding, dtype)


@functools.lru_cache(maxsize=256)
def _layout_of(state_dtype: Any, master_weights: bool, rounding: Any, dtype: torch.dtype) -> Layout:
    hyper = DEFAULTS._replace(state_dtype=state_dtype, master_weights=master_weights, rounding=rounding)
    element = DTYPES[dtype]
    formats = formats_of(hyper, element)
    stored = {name: Stored(_dtype_of(kept, dtype), kept) for name, kept in kept_of(hyper, element).items()}
    return Layout(tuple(each.code for each in formats), stored, set(formats) == {element.format})


def _dtype_of(kept: Kept, own: torch.dtype) -> torch.dtype:
    if kept.stored is None:
        return own
    if kept.format in (BFLOAT16, BFLOAT16_STOCHASTIC):
        return torch.bfloat16
    found: torch.dtype = getattr(torch, kept.stored.name)
    return found


def _as_array(tensor: Tensor) -> Array:
    """Return the numbers on the host; those of bfloat16 as bits."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    is_bfloat16 = tensor.dtype == torch.bfloat16
    found: Array = (tensor.view(torch.int16) if is_bfloat16 else tensor).numpy()
    return found.view(np.uint16) if is_bfloat16 else found


def decoded_moment(name: str, entry: Mapping[str, Any], label: str) -> Tensor:
    """Return the real numbers of a moment as a new tensor on the host: float32, or float64 where it is that.

    Parameters
    ----------
    name : str
    entry : mapping
        The state of the parameter.
    label : str
        How error messages call that.

    Raises
    ------
    ValueError
        If the scales of its blocks are missing, or are not those of so many numbers.
    """
    moment = entry[name]
    number_format = BLOCKS.get(moment.dtype)
    if number_format is None:
        moment = moment.detach().cpu()
        reals = torch.view_as_real(moment.resolve_conj()) if moment.is_complex() else moment
        dtype = reals.dtype if reals.dtype == torch.float64 else torch.float32
        return reals.to(dtype, copy=True, memory_format=torch.contiguous_format)
    scale = entry.get(SCALES[name])
    if not isinstance(scale, Tensor) or scale.numel() != count_blocks(moment.numel()):
        raise ValueError(
            f"{label}: {name} has the codes of blocks of {SCALE_BLOCK}, and {SCALES[name]} must have a scale for "
            f"each; load the state with all of its entries"
        )
    return torch.from_numpy(np.array(decode(_as_array(moment), _as_array(scale.float()), number_format)))


def decoded_master(weight: Tensor, rest: Tensor) -> Tensor:
    """Return the masters of weights in 16 bits as a new float32 tensor on the host."""
    number_format = _master_format(weight.dtype)
    found = decode(_as_array(weight).view(np.uint16), _as_array(rest), number_format)
    return torch.from_numpy(np.array(found)).reshape(weight.shape)


def _master_format(dtype: torch.dtype) -> Format:
    return BFLOAT16_MASTER if dtype == torch.bfloat16 else FLOAT16_MASTER


def decoded(param: Tensor, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with decoded copies of its tensors: float32, or float64 where it is that."""
    found: dict[str, Any] = {}
    for name, value in entry.items():
        if name in SCALES.values():
            continue
        if not isinstance(value, Tensor):
            found[name] = value
        elif name in MOMENTS:
            reals = decoded_moment(name, entry, "the state").to(param.device)
            found[name] = torch.view_as_complex(reals) if param.is_complex() else reals
        elif name == MASTER:
            found[name] = decoded_master(param, value).to(param.device)
        else:
            found[name] = value.detach().clone()
    return found


def converted(entry: Mapping[str, Any], param: Tensor, layout: Layout, label: str) -> dict[str, Tensor]:
    """Return moments, masters and scales of a saved entry as the state of a parameter, with new tensors.

    What lies in the same format keeps its bits; else numbers are rounded to nearest.

    Parameters
    ----------
    entry : mapping
        Saved for some layout, which its dtypes tell.
    param : Tensor
    layout : Layout
        Of the parameter.
    label : str
        How error messages call the entry.

    Raises
    ------
    ValueError
        If a tensor does not fit the parameter.
    """
    made: dict[str, Tensor] = {}
    for name in MOMENTS:
        if name not in entry:
            continue
        if not isinstance(entry[name], Tensor):
            kind = type(entry[name]).__name__
            raise ValueError(f"{label}: {name} is a {kind}, not a tensor; load it as it was saved")
        made |= _converted_moment(name, entry, param, layout.stored[name], label)
    if MASTER in layout.stored and made:
        made[MASTER] = _converted_master(entry.get(MASTER), param, layout.stored[MASTER])
    order = (*MOMENTS, *BESIDE)
    return {name: made[name] for name in order if name in made}


def _converted_moment(
    name: str, entry: Mapping[str, Any], param: Tensor, stored: Stored, label: str
) -> dict[str, Tensor]:
    moment, shape = entry[name], stored.shape(param)
    reals = decoded_moment(name, entry, label)
    wanted = (*param.shape, 2) if param.is_complex() else tuple(param.shape)
    if tuple(reals.shape) != wanted:
        raise ValueError(
            f"{label}: {name} has shape {tuple(moment.shape)}, its parameter has {tuple(param.shape)}; load the "
            f"state of an optimizer over parameters of the same shapes"
        )
    is_same = moment.dtype == stored.dtype and tuple(moment.shape) == shape
    if stored.dtype in BLOCKS:
        codes, scale = moment, entry.get(SCALES[name])
        if not is_same:
            codes, scale = map(torch.from_numpy, encode(reals.numpy(), stored.kept.format))
        assert scale is not None
        scale = scale.detach().float().reshape(-1)
        return {name: _placed(codes, stored, param), SCALES[name]: scale.to(param.device, copy=True)}
    if not is_same:
        as_own = param.is_complex() and stored.kept.stored is None
        moment = torch.view_as_complex(reals) if as_own else reals
    return {name: _placed(moment, stored, param)}


def _placed(numbers: Tensor, stored: Stored, param: Tensor) -> Tensor:
    """Return a copy that lies as the state of a parameter does."""
    return stored.zeros(param).copy_(numbers.detach().reshape(stored.shape(param)))


def _converted_master(rest: Any, param: Tensor, stored: Stored) -> Tensor:
    """Return what lies beside a weight; where nothing is known, the master is the weight."""
    made = stored.zeros(param)
    if not isinstance(rest, Tensor) or rest.shape != made.shape:
        return made
    if rest.dtype == stored.dtype:
        return made.copy_(rest)
    if stored.dtype == torch.int16 and rest.dtype == torch.float32:
        weights, rests = map(torch.from_numpy, encode(_as_array(rest), BFLOAT16_MASTER))
        ours = torch.from_numpy(_as_array(param).view(np.int16))
        return made.copy_(torch.where(weights.view(torch.int16) == ours, rests, torch.zeros_like(rests)))
    return made
