"""What an optimizer remembers: the live view ``optimizer.state``, and saved copies in torch's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.groups.members import Member
from fastadam.memory.arrays import Array
from fastadam.memory.devices import is_array, on_host
from fastadam.memory.parameter import Parameter
from fastadam.memory.written import Written
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import MOMENTS

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


class State(Mapping[Any, Mapping[str, Any]]):
    """The moments and step counters, by parameter.

    Keys are the positions of the parameters that have been stepped; an array, a `Parameter` or a name finds
    its parameter too. A value is a read-only mapping with ``step`` (int64) and live views, in the
    parameter's shape, of ``exp_avg``, ``exp_avg_sq`` and, with amsgrad, ``max_exp_avg_sq``: writing to a view
    changes the state.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups

    def __getitem__(self, key: Any) -> Mapping[str, Any]:
        for position, group, index, step in _members(self._groups):
            member = group.members[index]
            if isinstance(key, Parameter) or is_array(key):
                found = key is member.given or key is member.owner
            else:
                found = key == (member.name if isinstance(key, str) else position)
            if found and step:
                return MappingProxyType(_entry(group, index, step))
        raise KeyError(key)

    def __iter__(self) -> Iterator[int]:
        return (position for position, _, _, step in _members(self._groups) if step)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr({key: dict(value) for key, value in self.items()})


def state_dict(groups: Sequence[Group], copy: bool = True) -> dict[str, Any]:
    """Return a copy of the groups' state in torch's layout (see `fastadam.Adam.state_dict`).

    With `copy` False the moments in it are the live ones.
    """
    state = {
        position: {
            key: on_host(value, copy=True) if copy else value for key, value in _entry(group, index, step).items()
        }
        for position, group, index, step in _members(groups)
        if step
    }
    saved_groups = []
    for group in groups:
        positions = list(range(group.start, group.start + len(group.members)))
        saved = {**group.accepted(), "params": positions}
        if "param_names" in saved:
            saved["param_names"] = list(saved["param_names"])
        saved_groups.append(saved)
    return {"state": state, "param_groups": saved_groups}


def _members(groups: Sequence[Group]) -> Iterator[tuple[int, Group, int, np.int64]]:
    """Yield ``(position, group, index in the group, steps taken)`` of every parameter."""
    for group in groups:
        for index, step in enumerate(group.steps):
            yield group.start + index, group, index, step


def _entry(group: Group, index: int, step: np.int64) -> dict[str, Any]:
    moments = {name: group.moment(name, index) for name in MOMENTS if name in group.moments}
    return {"step": step, **moments}


class Loaded:
    """A state dict that has been checked against the groups and can be taken over.

    Parameters
    ----------
    saved : mapping
        In torch's layout.
    groups : sequence of Group
        The groups it is meant for.
    written : Written
        The memory of their parameters and moments.

    Raises
    ------
    TypeError, ValueError
        If it does not fit; nothing has been changed then.
    """

    def __init__(self, saved: Any, groups: Sequence[Group], written: Written) -> None:
        if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= set(saved):
            raise ValueError("the state dict must be a mapping with the keys 'state' and 'param_groups'")
        saved_groups, state = saved["param_groups"], saved["state"]
        if not isinstance(state, Mapping) or not isinstance(saved_groups, Sequence):
            raise TypeError("in the state dict, 'state' must be a mapping and 'param_groups' a list")
        if len(saved_groups) != len(groups):
            raise ValueError(
                f"the state dict has {len(saved_groups)} parameter groups, the optimizer has {len(groups)}"
            )
        self._groups = groups
        self._hypers: list[Hyperparameters] = []
        self._steps: list[Array] = []
        self._moments: list[list[dict[str, Array]]] = []
        self._keys: list[list[Any]] = []
        used: set[Any] = set()
        for group, saved_group in zip(groups, saved_groups, strict=True):
            where = f"state dict, {group.where or 'param_groups[0]: '}"
            self._hypers.append(_check_options(saved_group, group, where))
            keys = _match(saved_group, group, where)
            for key in keys:
                if key in used:
                    raise ValueError(f"{where}the entry {key} appears twice in 'params'")
                used.add(key)
            entries = [
                _check_entry(state[key], group.members[index], written) if key in state else (0, {})
                for index, key in enumerate(keys)
            ]
            self._steps.append(np.array([step for step, _ in entries], np.int64))
            self._moments.append([moments for _, moments in entries])
            self._keys.append(keys)
            if self._hypers[-1].amsgrad:
                for index, (step, moments) in enumerate(entries):
                    if step and MOMENTS[2] not in moments:
                        raise ValueError(f"{where}amsgrad is on, but entry {keys[index]} has no {MOMENTS[2]}")
        extra = [key for key in state if key not in used]
        if extra:
            raise ValueError(f"the state dict has state for {extra[:5]}, which no parameter group lists")

    def reserve(self) -> None:
        """Reserve the third moments that it needs.

        Raises
        ------
        MemoryError
            If there is not enough memory; no number has changed then.
        """
        each = zip(self._groups, self._hypers, self._moments, strict=True)
        Group.reserve_max(
            group
            for group, hyper, moments in each
            if hyper.amsgrad or any(MOMENTS[2] in entry for entry in moments)
        )

    def take_over(self, read: Callable[[Array, Any, str], None] | None = None) -> None:
        """Copy the numbers into the groups, in place, after `reserve`; to be guarded by an `uninterrupted`.

        Parameters
        ----------
        read : callable, optional
            Called as ``read(target, key, name)`` to fill a moment from elsewhere, where the state dict holds
            only stand-ins of the right shape and dtype: `key` is that of its entry, `name` the moment's.
        """
        for group, hyper in zip(self._groups, self._hypers, strict=True):
            group.accept(hyper)
        for group, steps in zip(self._groups, self._steps, strict=True):
            group.set_steps(steps)
        for group, keys, moments in zip(self._groups, self._keys, self._moments, strict=True):
            for index, (key, entry) in enumerate(zip(keys, moments, strict=True)):
                for name in group.moments:
                    target = group.moment(name, index)
                    if read is not None and name in entry:
                        read(target, key, name)
                    else:
                        target[...] = entry.get(name, 0)


def _check_options(saved: Any, group: Group, where: str) -> Hyperparameters:
    """Return the saved options, checked; what old versions of torch did not save keeps its value."""
    if not isinstance(saved, Mapping) or "params" not in saved:
        raise ValueError(f"{where}a parameter group must be a mapping with the key 'params'")
    options = {key: value for key, value in saved.items() if key not in TORCH_ONLY}
    for key in options:
        if key not in (*hyperparameters.KEYS, "params", "param_names"):
            raise ValueError(f"{where}unknown option {key!r}; known are {', '.join(hyperparameters.KEYS)}")
    for key in ("lr", "betas", "eps", "weight_decay"):
        if key not in options:
            raise ValueError(f"{where}the option {key!r} is missing")
    return hyperparameters.check({**group.hyper._asdict(), **options}, where)


def _match(saved: Mapping[str, Any], group: Group, where: str) -> list[Any]:
    """Return, for each member, the key of its saved entry: by name where both have names, else in order."""
    keys = saved["params"]
    if not isinstance(keys, list | tuple) or not all(type(key) is int for key in keys):
        raise TypeError(f"{where}'params' must be a list of the numbers of entries, got {keys!r}")
    if len(keys) != len(group.members):
        raise ValueError(f"{where}it has {len(keys)} parameters, the optimizer's group has {len(group.members)}")
    names = [member.name for member in group.members]
    if "param_names" not in saved or names[0] is None:
        return list(keys)
    saved_names = saved["param_names"]
    if not isinstance(saved_names, list | tuple) or not all(isinstance(name, str) for name in saved_names):
        raise TypeError(f"{where}'param_names' must be a list of names, got {saved_names!r}")
    if len(saved_names) != len(keys):
        raise ValueError(f"{where}'param_names' has {len(saved_names)} names for {len(keys)} parameters")
    by_name = dict(zip(saved_names, keys, strict=True))
    missing = [name for name in names if name not in by_name]
    unexpected = [name for name in by_name if name not in names]
    if missing or unexpected or len(by_name) != len(keys):
        raise ValueError(f"{where}the names differ: missing {missing}, unexpected {unexpected}")
    return [by_name[name] for name in names]


def _check_entry(entry: Any, member: Member, written: Written) -> tuple[int, dict[str, Array]]:
    """Return the saved step and moments of one parameter; moments that are live memory are copied."""
    where = f"state dict, {member.label}: "
    if not isinstance(entry, Mapping):
        raise TypeError(f"{where}its state must be a mapping, got {type(entry).__name__}")
    needed = ("step", *MOMENTS[:2])
    for key in needed:
        if key not in entry:
            raise ValueError(f"{where}its state has no {key!r}")
    for key in entry:
        if key not in ("step", *MOMENTS):
            raise ValueError(f"{where}its state has the unknown key {key!r}")
    step = np.asarray(entry["step"])
    if step.size != 1 or step.dtype.kind not in "iuf" or not 0 <= step < 2**62 or step != np.floor(step):
        raise ValueError(f"{where}step must be a whole number of at least 0, got {entry['step']!r}")
    moments = {name: on_host(entry[name]) for name in MOMENTS if name in entry}
    for name, moment in moments.items():
        if moment.shape != member.shape:
            raise ValueError(f"{where}{name} has shape {moment.shape}, the parameter has {member.shape}")
        if moment.dtype != member.dtype:
            raise TypeError(f"{where}{name} has dtype {moment.dtype}, the parameter has {member.dtype}")
        if written.owner(moment) is not None:
            moments[name] = moment.copy()
    return int(step.reshape(())), moments
