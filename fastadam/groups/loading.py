"""Takes over a state dict: all checks, then all numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.groups.converting import Fill, Incoming, copy_calls, fitted
from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.groups.members import Member
from fastadam.memory.arrays import Array, base_view
from fastadam.memory.devices import device_of, is_array, on_host
from fastadam.memory.remedies import COPIED, lost_meaning
from fastadam.memory.structs import AVERAGE, KEPT, MOMENTS, ROW_STEP
from fastadam.memory.words import a_name_of, counted, shown
from fastadam.memory.written import Written
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import in_one_go

# What is in torch's groups beside the options of Adam: choices among implementations, notes of schedulers.
TORCH_ONLY = (
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
)


class Loaded:
    """A state dict that has been checked against the groups and can be taken over.

    Parameters
    ----------
    saved : mapping
        In torch's layout; a moment is an array or `Incoming`.
    groups : Groups
        The groups it is meant for.

    Raises
    ------
    TypeError, ValueError
        If it does not fit; nothing has been changed then.
    """

    def __init__(self, saved: Any, groups: Groups) -> None:
        if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= set(saved):
            has = f"; it has {shown(list(saved))}" if isinstance(saved, Mapping) else f", got {a_name_of(saved)}"
            raise ValueError(
                f"the state dict must be a mapping with the keys 'state' and 'param_groups'{has}; give what "
                f"optimizer.state_dict() returned"
            )
        saved_groups, state = saved["param_groups"], saved["state"]
        if not isinstance(state, Mapping) or not isinstance(saved_groups, Sequence):
            raise TypeError(
                f"in the state dict, 'state' must be a mapping and 'param_groups' a list, got {a_name_of(state)} "
                f"and {a_name_of(saved_groups)}; give what optimizer.state_dict() returned"
            )
        if len(saved_groups) != len(groups):
            raise ValueError(
                f"the state dict has {counted(len(saved_groups), 'parameter group')}, the optimizer has "
                f"{len(groups)}; make it with as many groups, of the same parameters, and load again"
            )
        self._groups = groups
        self._hypers: list[Hyperparameters] = []
        self._steps: list[Array] = []
        self._moments: list[list[dict[str, Incoming]]] = []
        self._row_steps: list[list[Array | None]] = []
        used: set[Any] = set()
        read: list[list[Any]] = []
        all_keys: list[list[Any]] = []
        for group, saved_group in zip(groups, saved_groups, strict=True):
            where = f"state dict, {group.where or 'param_groups[0]: '}"
            self._hypers.append(_check_options(saved_group, group, where))
            keys = _match(saved_group, group, where)
            for key in keys:
                if key in used:
                    raise ValueError(f"{where}the entry {key} appears twice in 'params'")
                used.add(key)
            each = zip(keys, group.members, strict=True)
            read.append(
                [_read_entry(state[key], key, member.whole) if key in state else None for key, member in each]
            )
            all_keys.append(keys)
        extra = [key for key in state if key not in used]
        if extra:
            raise ValueError(f"the state dict has state for {extra[:5]}, which no parameter group lists")
        # From here on no foreign code runs: what has been read, and the parameters, stay as they are found now.
        groups.check_unchanged()
        written = groups.written()
        each_group = zip(groups, saved_groups, self._hypers, all_keys, read, strict=True)
        for group, saved_group, hyper, keys, found in each_group:
            where = f"state dict, {group.where or 'param_groups[0]: '}"
            may_differ = saved_group.get("state_dtype") is not None
            entries = [
                (0, {}) if entry is None else _check_entry(entry, member.whole, group, written, may_differ)
                for entry, member in zip(found, group.members, strict=True)
            ]
            self._row_steps.append(
                [
                    None if entry is None else _check_row_steps(entry, member, groups)
                    for entry, member in zip(found, group.members, strict=True)
                ]
            )
            self._steps.append(np.array([step for step, _ in entries], np.int64))
            self._moments.append([moments for _, moments in entries])
            if AVERAGE not in group.moments and any(AVERAGE in moments for _, moments in entries):
                raise ValueError(
                    f"{where}it has averages ({AVERAGE!r}), which this optimizer does not keep; set ema_decay to "
                    f"a number, such as 0.999, and load again (setting it to None afterwards drops them)"
                )
            if hyper.amsgrad:
                for index, (step, moments) in enumerate(entries):
                    if step and MOMENTS[2] not in moments:
                        raise ValueError(f"{where}amsgrad is on, but entry {keys[index]} has no {MOMENTS[2]}")

    def _reserve(self) -> None:
        """Reserve the third moments that it needs."""
        each = zip(self._groups, self._hypers, self._moments, strict=True)
        Group.reserve_max(
            group
            for group, hyper, moments in each
            if hyper.amsgrad or any(MOMENTS[2] in entry for entry in moments)
        )

    def take_over(self, params: Sequence[tuple[Array, Fill]] = ()) -> None:
        """Copy the numbers into the groups, in place and in one go.

        Parameters
        ----------
        params : sequence of (array, callable)
            What is to be filled, too, and with what (see `Incoming`).

        Raises
        ------
        MemoryError
            If there is not enough memory; no number has changed then.
        """
        self._reserve()
        calls = [*self._groups.renew_calls(), *self._groups.accept_calls(self._hypers)]
        for target, fill in params:
            calls += fill(target)
        each_group = zip(self._groups, self._steps, self._row_steps, self._moments, strict=True)
        for group, steps, row_steps, moments in each_group:
            calls += group.steps_calls(steps)
            for index, entry in enumerate(moments):
                calls += group.own_steps_calls(index, row_steps[index])
                for name in group.moments:
                    if not group.has(name, index):
                        continue
                    target = group.moment(name, index)
                    if name in entry:
                        calls += entry[name].fill(target, *group.first_of(name, index))
                    elif name == AVERAGE:  # it begins as the parameter is by then
                        calls += copy_calls(group.members[index].array, target)
                    else:
                        calls += device_of(target).clear_calls(target)
        returned = in_one_go(calls)
        for device in dict.fromkeys(member.device for member in self._groups.members):
            device.check_returned(returned)


def _check_options(saved: Any, group: Group, where: str) -> Hyperparameters:
    """Return the saved options, checked; what old versions of torch did not save keeps its value."""
    if not isinstance(saved, Mapping) or "params" not in saved:
        has = f"this has {shown(list(saved))}" if isinstance(saved, Mapping) else f"got {a_name_of(saved)}"
        raise ValueError(f"{where}a parameter group must be a mapping with the key 'params'; {has}")
    options = {key: value for key, value in saved.items() if key not in TORCH_ONLY}
    for key in options:
        if key not in (*hyperparameters.KEYS, "params", "param_names"):
            raise ValueError(f"{where}unknown option {key!r}; known are {', '.join(hyperparameters.KEYS)}")
    for key in ("lr", "betas", "eps", "weight_decay"):
        if key not in options:
            raise ValueError(f"{where}the option {key!r} is missing")
    hyper = hyperparameters.check({**group.hyper._asdict(), **options}, where)
    own = {name: getattr(group.hyper, name) for name in hyperparameters.STAYING}
    return group.checked({**hyper._asdict(), **own}, where)


def _match(saved: Mapping[str, Any], group: Group, where: str) -> list[Any]:
    """Return, for each member, the key of its saved entry: by name where both have names, else in order."""
    keys = saved["params"]
    if not isinstance(keys, list | tuple) or not all(type(key) is int for key in keys):
        raise TypeError(f"{where}'params' must be a list of the numbers of entries, got {keys!r}")
    if len(keys) != len(group.members):
        raise ValueError(
            f"{where}it has {counted(len(keys), 'parameter')}, the optimizer's group has {len(group.members)}; "
            f"make the optimizer with the same parameters, and load again"
        )
    names = [member.name for member in group.members]
    if "param_names" not in saved or names[0] is None:
        return list(keys)
    saved_names = saved["param_names"]
    if not isinstance(saved_names, list | tuple) or not all(isinstance(name, str) for name in saved_names):
        raise TypeError(f"{where}'param_names' must be a list of names, got {saved_names!r}")
    if len(saved_names) != len(keys):
        raise ValueError(
            f"{where}'param_names' has {counted(len(saved_names), 'name')} for {counted(len(keys), 'parameter')}"
        )
    by_name = dict(zip(saved_names, keys, strict=True))
    missing = [name for name in names if name not in by_name]
    known = set(names)
    unexpected = [name for name in by_name if name not in known]
    if missing or unexpected or len(by_name) != len(keys):
        raise ValueError(f"{where}the names differ: missing {missing}, unexpected {unexpected}")
    return [by_name[name] for name in names]


def _read_entry(entry: Any, key: int, member: Member) -> dict[str, Any]:
    """Return what is saved of one parameter, its arrays exact ones, and its key and step as given for messages."""
    where = f"state dict, {member.label}: "
    if not isinstance(entry, Mapping):
        raise TypeError(f"{where}its state must be a mapping, got {type(entry).__name__}")
    needed = ("step", *MOMENTS[:2])
    for name in needed:
        if name not in entry:
            raise ValueError(f"{where}its state has no {name!r}")
    for name in entry:
        if name not in ("step", ROW_STEP, *KEPT):
            raise ValueError(f"{where}its state has the unknown key {name!r}")
    moments = {name: entry[name] for name in KEPT if name in entry}
    given = entry["step"]
    read: dict[str, Any] = {"key": key, "given": given, "step": np.asarray(given)}
    if entry.get(ROW_STEP) is not None:
        moments[ROW_STEP] = entry[ROW_STEP]
    for name, moment in moments.items():
        read[name] = moment if isinstance(moment, Incoming) else _read_moment(moment, f"{where}{name}")
    return read


def _read_moment(moment: Any, label: str) -> Array:
    """Return a moment as an exact array; refuse what is none, or is more than its numbers."""
    lost = lost_meaning(moment, COPIED) if isinstance(moment, np.ndarray) else None
    if lost is not None:
        raise TypeError(f"{label} {lost}")
    array = on_host(moment)
    if array.dtype.kind not in "biufcV" and not is_array(moment):
        raise TypeError(f"{label} is {a_name_of(moment)}, not an array of numbers: {shown(moment)}")
    return base_view(array)


def _check_entry(
    entry: dict[str, Any], member: Member, group: Group, written: Written, may_differ: bool
) -> tuple[int, dict[str, Incoming]]:
    """Return the saved step of one parameter, and what its group keeps, of which live memory is copied."""
    where = f"state dict, {member.label}: "
    step = entry["step"]
    if step.size != 1 or step.dtype.kind not in "iuf" or not 0 <= step < 2**62 or step != np.floor(step):
        raise ValueError(f"{where}step must be a whole number of at least 0, got {entry['given']!r}")
    moments = {name: _incoming(entry[name], written) for name in KEPT if name in entry}
    kept = group.kept[member.buffer_key]
    found = fitted(moments, member, kept, where, entry["key"], may_differ=may_differ)
    return int(step.reshape(())), found


def _check_row_steps(entry: dict[str, Any], member: Member, groups: Groups) -> Array | None:
    """Return a copy of the saved steps of a parameter's rows; None where there are none, or all are alike."""
    found = entry.get(ROW_STEP)
    if found is None:
        return None
    where = f"state dict, {member.label}: {ROW_STEP}"
    shape = member.whole.shape[:1]
    if found.dtype.kind not in "iu" or found.shape != shape or not shape:
        raise ValueError(
            f"{where} must be whole numbers, one for each row, of shape {shape}, got {found.dtype} of shape "
            f"{found.shape}"
        )
    if found.size and (found.min() < 0 or found.max() > entry["step"]):
        raise ValueError(
            f"{where} must be from 0 to {entry['step']}, the parameter's step, got {found.min()} to {found.max()}"
        )
    if not (found != entry["step"]).any():
        return None
    if groups.catches_up or groups.share is not None:
        kind = 'lazy="exact"' if groups.catches_up else "ranks, which share out whole parameters,"
        raise ValueError(
            f"{where}: rows have taken less steps than the parameter, and an optimizer with {kind} has no "
            f'counters for that; load it into one with lazy="skip", or go on as if all had taken {entry["step"]} '
            f"steps: delete {ROW_STEP!r} from the state"
        )
    copied: Array = found.astype(np.int64)
    return copied


def _incoming(array: Array | Incoming, written: Written) -> Incoming:
    if isinstance(array, Incoming):
        return array
    # A view of its own: what foreign code does to the array's shape and dtype from now on does not matter.
    return Incoming.of(array.copy() if written.owner(array) is not None else array[...])
