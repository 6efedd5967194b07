"""Saved moments in the formats that an optimizer keeps: others are converted, and what fits none is refused.

The format of what was saved is seen from its keys and dtypes. Numbers that are converted go through float32 (what
is plain in float64 and stays so keeps its digits), and are rounded to nearest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastadam.groups.members import Member
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.devices import device_of, on_host
from fastadam.memory.formats import BFLOAT16, FLOAT32, INT8, ROOT8, Format
from fastadam.memory.structs import AVERAGE, MASTER, MOMENTS, SCALE_BLOCK, SCALES
from fastadam.step.backend import Call
from fastadam.step.compact import count_blocks
from fastadam.step.compact_arrays import decode, encode
from fastadam.step.interrupts import in_one_go
from fastadam.step.precision import CODES, Kept

# ``fill(array, first)``, see `Incoming`.
Fill = Callable[..., list[Call]]


class Incoming(NamedTuple):
    """A moment that is to be taken over, wherever its numbers are by now: in an array, in a file.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        Those that its numbers will have.
    fill : callable
        ``fill(array)`` returns native calls that copy them into an array of this shape and dtype, and
        ``fill(array, first)`` those that copy a run of them, from that number on, into one of any shape. Called
        once, or not at all. Whatever can fail has been done when it returns.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Fill

    @classmethod
    def of(cls, array: Array) -> Incoming:
        """Return one of the numbers in an array."""
        return cls(array.shape, array.dtype, functools.partial(copy_calls, array))

    def read(self) -> Array:
        """Return the numbers in an array of their own."""
        found = np.empty(self.shape, self.dtype)
        in_one_go(self.fill(found))
        return found


def copy_calls(numbers: Array, target: Array, first: int | None = None) -> list[Call]:
    """Return native calls that copy numbers, on the host or beside it, into an array of their shape and dtype.

    Or, where `first` is given, a run of them from there on.
    """
    if first is not None:
        numbers = on_host(numbers).reshape(-1)[first : first + target.size].reshape(target.shape)
    return device_of(target).copy_calls(target, numbers)


def fitted(
    saved: Mapping[str, Incoming],
    member: Member,
    kept: Mapping[str, Kept],
    label: str,
    key: Any,
    *,
    may_differ: bool = False,
) -> dict[str, Incoming]:
    """Return what was saved of a parameter as its group keeps it.

    Parameters
    ----------
    saved : mapping of Incoming
        By the names of `fastadam.step.plan.KEPT`.
    member : Member
    kept : mapping of Kept
        How the group keeps it.
    label : str
        Of the entry, for messages.
    key : object
        That of the entry, in the state dict.
    may_differ : bool, default False
        Whether plain moments were saved in another dtype than the parameter's on purpose (`state_dtype`); else
        they are refused, where none is asked for here.

    Returns
    -------
    dict of Incoming
        Masters that were not saved are not in it: zeros beside a weight stand for the weight itself. Those that
        are not kept any more are left out.

    Raises
    ------
    TypeError, ValueError
        If something does not fit.
    """
    found: dict[str, Incoming] = {}
    for name, scale in SCALES.items():
        if scale in saved and name not in saved:
            raise ValueError(f"{label}it has {scale}, and no {name}; load the state with all of its entries")
    for name in MOMENTS:
        if name in saved:
            found |= _moment(name, saved, member, kept[name], label, key, may_differ)
    if MASTER in saved and MASTER in kept:
        _check(MASTER, saved[MASTER], member, kept[MASTER], label)
        found[MASTER] = saved[MASTER]
    if AVERAGE in saved:
        _check(AVERAGE, saved[AVERAGE], member, kept[AVERAGE], label)
        found[AVERAGE] = saved[AVERAGE]
    return found


def _moment(
    name: str, saved: Mapping[str, Incoming], member: Member, kept: Kept, label: str, key: Any, may_differ: bool
) -> dict[str, Incoming]:
    moment, element = saved[name], ALL_DTYPES[member.dtype]
    number_format = _format_of(name, moment, SCALES[name] in saved, label)
    is_compact = number_format in (INT8, ROOT8)
    # Complex numbers lie as pairs of real ones in formats that are not their own.
    is_paired = element.reals > 1 and moment.dtype.kind != "c" and moment.shape == (*member.shape, element.reals)
    if moment.shape != member.shape and not is_paired:
        raise ValueError(
            f"{label}{name} has shape {moment.shape}, the parameter has {member.shape}; load the state of an "
            f"optimizer over parameters of the same shapes"
        )
    if is_compact:
        _check_scale(saved[SCALES[name]], moment, SCALES[name], label)
    if moment.dtype == (kept.stored or member.dtype) and is_compact == (kept.format in (INT8, ROOT8)):
        return {each: saved[each] for each in (name, SCALES[name]) if each in saved}
    fits = number_format is not None and (is_paired or (moment.dtype.kind == "c") == (element.reals > 1))
    if fits and kept.stored is None and not (may_differ or is_compact or number_format == BFLOAT16):
        # Plain numbers of another dtype are no state of such a parameter, but for what is computed with.
        fits = moment.dtype == element.format.compute
    if not fits or number_format is None:
        raise TypeError(
            f"{label}{name} has dtype {moment.dtype}, the parameter has {member.dtype}; "
            f"{_remedy_for_dtypes(key, saved, member)}"
        )
    return _converted(name, saved, number_format, member, kept)


def _format_of(name: str, moment: Incoming, has_scale: bool, label: str) -> Format | None:
    """Return the format of what was saved, None where it is none."""
    dtype = moment.dtype
    codes = CODES[name]
    if has_scale or dtype in (INT8.stored, ROOT8.stored):
        if not has_scale:
            raise ValueError(f"{label}{name} has codes of 8 bits, and {SCALES[name]} is missing; load it, too")
        if dtype != codes.stored:
            raise TypeError(
                f"{label}{name} has dtype {dtype}, and its codes must be {codes.stored}; load what "
                f"optimizer.state_dict() returned"
            )
        return codes
    if dtype == BFLOAT16.stored:
        return BFLOAT16
    return ALL_DTYPES[dtype].format if dtype in ALL_DTYPES else None


def _check_scale(scale: Incoming, codes: Incoming, name: str, label: str) -> None:
    blocks = count_blocks(math.prod(codes.shape))
    if scale.dtype != FLOAT32.stored or scale.shape != (blocks,):
        raise ValueError(
            f"{label}{name} is {scale.dtype} of shape {scale.shape}, and must be float32 of shape ({blocks},), "
            f"one for each {SCALE_BLOCK} codes; load what optimizer.state_dict() returned"
        )


def _check(name: str, given: Incoming, member: Member, kept: Kept, label: str) -> None:
    shape = kept.shape(member.shape, ALL_DTYPES[member.dtype].reals)
    dtype = kept.stored or member.dtype
    if given.shape != shape:
        raise ValueError(
            f"{label}{name} has shape {given.shape}, the parameter has {member.shape}; load the state of an "
            f"optimizer over parameters of the same shapes"
        )
    if given.dtype != dtype:
        whose = "the parameter has" if dtype == member.dtype else "beside this parameter lies"
        raise TypeError(
            f"{label}{name} has dtype {given.dtype}, {whose} {dtype}; load a state of that dtype, or make the "
            f"optimizer over a parameter of the state's"
        )


def _converted(
    name: str, saved: Mapping[str, Incoming], number_format: Format, member: Member, kept: Kept
) -> dict[str, Incoming]:
    element, moment = ALL_DTYPES[member.dtype], saved[name].read()
    scale = saved[SCALES[name]].read() if number_format in (INT8, ROOT8) else None
    if number_format in (INT8, ROOT8):
        numbers = decode(moment, scale, number_format)
    elif number_format == BFLOAT16:
        numbers = decode(moment.view(np.uint16), None, BFLOAT16)
    else:
        numbers = moment.reshape(-1).view(ALL_DTYPES[moment.dtype].real)
    shape = (*member.shape, element.reals) if element.reals > 1 else member.shape
    stored, beside = encode(numbers.reshape(shape), kept.format)
    if kept.stored is None:
        stored = stored.reshape(-1).view(member.dtype).reshape(member.shape)
    made = {name: Incoming.of(np.ascontiguousarray(stored))}
    if beside is not None:
        made[SCALES[name]] = Incoming.of(beside)
    return made


def _remedy_for_dtypes(key: Any, moments: Mapping[str, Incoming], member: Member) -> str:
    """Say what to do about moments of another dtype than their parameter's."""
    plain = {name: moments[name] for name in (*MOMENTS, AVERAGE) if name in moments}
    if not all(np.can_cast(moment.dtype, member.dtype, "same_kind") for moment in plain.values()):
        return "load a state of that dtype, or make the optimizer over a parameter of the state's"
    names = tuple(name for name, moment in plain.items() if moment.dtype != member.dtype)
    entry = f"state_dict['state'][{key}]"
    return (
        f"convert what is saved of it, and load that: "
        f"{entry}.update({{name: np.asarray({entry}[name], np.{member.dtype}) for name in {names}}})"
    )
