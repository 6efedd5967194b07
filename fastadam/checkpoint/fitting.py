"""Checks a checkpoint against an optimizer, before anything is written."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from fastadam.checkpoint.format import (
    CODES,
    FORMAT,
    PARAM,
    SIZES,
    VERSION,
    check_unchanged,
    stored_shape,
)
from fastadam.checkpoint.reading import Source
from fastadam.groups.converting import Fill, Incoming
from fastadam.groups.group import Group
from fastadam.groups.matching import Described, match, raise_for
from fastadam.groups.members import Member
from fastadam.memory.arrays import Array
from fastadam.memory.devices import check_parameter
from fastadam.memory.formats import ELEMENTS
from fastadam.memory.structs import AVERAGE, KEPT, MOMENTS, ROW_STEP, SCALES
from fastadam.memory.words import counted
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import DEFAULTS, PRECISION
from fastadam.step.interrupts import in_one_go
from fastadam.step.precision import Kept, kept_of


class Checkpoint:
    """A file that has been checked against an optimizer.

    Parameters
    ----------
    source : Source
    groups : sequence of Group
        The optimizer's.

    Attributes
    ----------
    extra : dict
        What the user saved along.
    state : dict
        A state dict for the optimizer, whose moments are read from the file as it is taken over.
    params : list of (array, callable)
        The parameters to restore, and what fills them (see `fastadam.groups.loading.Incoming`).
    nbytes : int
        How much is to be read.

    Raises
    ------
    ValueError
        If the file is damaged or does not fit.
    """

    def __init__(self, source: Source, groups: Sequence[Group]) -> None:
        metadata = source.metadata
        if metadata.get("format") != FORMAT:
            raise ValueError("it was not written by fastadam.save: its metadata do not say format 'fastadam'")
        if metadata.get("format_version") != VERSION:
            raise ValueError(
                f"it has format version {metadata.get('format_version')!r}, this version of fastadam reads "
                f"{VERSION!r}; load it with the version that wrote it"
            )
        self.extra = _decode(metadata.get("extra", "{}"), "extra")
        if not isinstance(self.extra, dict):
            raise ValueError("'extra' in its metadata is no mapping")
        saved = _decode(metadata.get("param_groups", "null"), "param_groups")
        _check_groups(saved)
        schedules = _read_schedules(metadata, saved)
        entries = [entry for group in saved for entry in group["params"]]
        keys = [str(i) if entry["name"] is None else entry["name"] for i, entry in enumerate(entries)]
        has_params = any(name.startswith(f"{PARAM}/") for name in source.tensors)
        matched = _match(saved, groups, keys)
        _check_tensors(source, saved, keys, has_params)
        self.nbytes = sum(SIZES[dtype] * math.prod(shape) for (dtype, shape), _ in source.tensors.values())
        self.params: list[tuple[Array, Fill]] = [
            (member.array, functools.partial(source.fill, source.tensors[f"{PARAM}/{keys[i]}"]))
            for member, i in matched
            if has_params
        ]
        self.state: dict[str, Any] = {"state": {}, "param_groups": []}
        fill = source.fill
        dtypes = {i: member.dtype for member, i in matched}
        kept_by = [_kept(group, entry) for group in saved for entry in group["params"]]
        for i, (key, entry, kept) in enumerate(zip(keys, entries, kept_by, strict=True)):
            if entry["step"]:
                self.state["state"][i] = {"step": entry["step"]}
                if (tensor := source.tensors.get(f"{ROW_STEP}/{key}")) is not None:
                    steps = self.state["state"][i][ROW_STEP] = np.zeros(entry["shape"][0], np.int64)
                    in_one_go(fill(tensor, steps))
                reals = ELEMENTS[entry["dtype"]].reals
                for name in KEPT:
                    tensor = source.tensors.get(f"{name}/{key}")
                    if tensor is not None:
                        shape = kept[name].shape(tuple(entry["shape"]), reals)
                        dtype = kept[name].stored or dtypes[i]
                        self.state["state"][i][name] = Incoming(shape, dtype, functools.partial(fill, tensor))
        rest = iter(matched)
        for group, saved_group, schedule in zip(groups, saved, schedules, strict=True):
            positions = [next(rest)[1] for _ in group.members]
            options = {name: saved_group.get(name, PRECISION.get(name)) for name in hyperparameters.KEYS}
            if schedule is not None:
                options["lr"] = schedule
            elif options["lr"] is None:
                options["lr"] = group.options.get("lr")
                if not callable(options["lr"]):
                    raise ValueError(
                        f"{group.where}lr was a function, which the file does not hold; set lr of the optimizer "
                        f"to that function, then load"
                    )
            own = {name: getattr(group.hyper, name) for name in hyperparameters.STAYING}
            group.checked({**options, **own}, group.where or "param_groups[0]: ")
            # The matching is done: by position here, whatever names there are.
            self.state["param_groups"].append({**options, "params": positions})
        for member, _ in matched:
            check_unchanged(member)
            if has_params:
                check_parameter(member.owner, member.label)
        source.tensors.clear()  # their names are not needed any more


def _decode(text: str, what: str) -> Any:
    """Decode JSON that holds finite numbers only."""

    def refuse(number: str) -> NoReturn:
        raise ValueError(f"{number} is not finite")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what!r} in its metadata is no JSON that fastadam.save writes: {error}") from error


def _check_groups(saved: Any) -> None:
    """Check the form of what the metadata say of groups; the values of options are checked elsewhere."""
    if not isinstance(saved, list) or not saved:
        raise ValueError("'param_groups' in its metadata is missing or no list of groups")
    names = []
    for i, group in enumerate(saved):
        known = {*hyperparameters.KEYS, "params"}
        if not isinstance(group, dict) or group.keys() not in (known, known - PRECISION.keys()):
            raise ValueError(f"param_groups[{i}] in its metadata has not the keys that fastadam.save writes")
        try:
            hyperparameters.check(
                {**DEFAULTS._asdict(), **{name: group[name] for name in PRECISION if name in group}}
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"param_groups[{i}] in its metadata: {error}") from error
        if not isinstance(group["params"], list) or not group["params"]:
            raise ValueError(f"param_groups[{i}] in its metadata lists no parameters")
        for entry in group["params"]:
            if not isinstance(entry, dict) or entry.keys() != {"name", "shape", "dtype", "step"}:
                raise ValueError(f"param_groups[{i}] in its metadata has a damaged parameter, {entry!r:.100}")
            if not isinstance(entry["name"], str | None):
                raise ValueError(f"param_groups[{i}] in its metadata has the name {entry['name']!r:.100}")
            if type(entry["step"]) is not int or not 0 <= entry["step"] < 2**62:
                raise ValueError(f"param_groups[{i}] in its metadata has the step {entry['step']!r:.100}")
            if not isinstance(entry["dtype"], str) or entry["dtype"] not in ELEMENTS:
                raise ValueError(f"param_groups[{i}] in its metadata has the dtype {entry['dtype']!r:.100}")
            shape = entry["shape"]
            if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"param_groups[{i}] in its metadata has the shape {shape!r:.100}")
            names.append(entry["name"])
    if any(name is not None for name in names) and (None in names or len(set(names)) < len(names)):
        raise ValueError("in its metadata, names are missing or appear twice")


def _read_schedules(metadata: Mapping[str, str], saved: list[dict[str, Any]]) -> list[Any]:
    """Return the schedule that a group's `lr` was, for each group; None where it was none."""
    if "schedules" not in metadata:
        return [None] * len(saved)
    definitions = _decode(metadata["schedules"], "schedules")
    if not isinstance(definitions, list) or len(definitions) != len(saved):
        raise ValueError("'schedules' in its metadata is no list with an entry for each group")
    from fastadam.schedules import from_dict  # not imported where there is none

    made = []
    for i, (definition, group) in enumerate(zip(definitions, saved, strict=True)):
        if definition is not None and group["lr"] is not None:
            raise ValueError(f"param_groups[{i}] in its metadata has a number and a schedule for lr")
        try:
            made.append(None if definition is None else from_dict(definition))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"schedules[{i}] in its metadata is none that this version of fastadam knows: {error}"
            ) from error
    return made


def _match(saved: list[dict[str, Any]], groups: Sequence[Group], keys: list[str]) -> list[tuple[Member, int]]:
    """Return each parameter with the number, in the file, of what belongs to it."""
    if len(saved) != len(groups):
        raise ValueError(f"it has {counted(len(saved), 'parameter group')}, the optimizer has {len(groups)}")
    labels = map(repr, keys)
    described = [
        [
            Described(entry["name"], next(labels), [(tuple(entry["shape"]), entry["dtype"])])
            for entry in saved_group["params"]
        ]
        for saved_group in saved
    ]
    try:
        return match(
            zip(described, ([m.whole for m in group.members] for group in groups), strict=True), "in the file"
        )
    except ValueError as error:
        raise ValueError(
            f"{error}; make the optimizer over parameters of the names, shapes and dtypes in the file, and load "
            f"again"
        ) from None


def _check_tensors(source: Source, saved: list[dict[str, Any]], keys: list[str], has_params: bool) -> None:
    """Check that the file's tensors are those that its metadata promise."""
    has_averages = any(name.startswith(f"{AVERAGE}/") for name in source.tensors)
    missing: list[str] = []
    other: list[str] = []
    found = 0
    for name, needed, kind in _promised(saved, keys, has_params, has_averages):
        if name in source.tensors:
            found += 1
            stored = source.tensors[name].kind
            if stored != kind:
                (dtype, shape), (code, promised) = stored, kind
                other.append(f"{name!r} ({dtype} {list(shape)}, but {code} {list(promised)} in the metadata)")
        elif needed:
            missing.append(repr(name))
    unexpected: list[str] = []
    if found < len(source.tensors):
        known = {name for name, _, _ in _promised(saved, keys, has_params, has_averages)}
        unexpected = [repr(name) for name in source.tensors if name not in known]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape or dtype", other)]
    raise_for(problems, "its tensors are not those that its metadata list")


def _promised(
    saved: list[dict[str, Any]], keys: list[str], has_params: bool, has_averages: bool
) -> Iterator[tuple[str, bool, tuple[str, tuple[int, ...]]]]:
    """Yield the tensors that the metadata promise: name, whether it must be there, dtype and shape in the file."""
    rest = iter(keys)
    for group in saved:
        for entry in group["params"]:
            key, element = next(rest), ELEMENTS[entry["dtype"]]
            if has_params:
                kind = element.format.safetensors, tuple(stored_shape(entry["shape"], element))
                yield f"{PARAM}/{key}", True, kind
            if entry["step"] and entry["shape"]:
                yield f"{ROW_STEP}/{key}", False, ("I64", (entry["shape"][0],))
            for name, kept in _kept(group, entry).items() if entry["step"] else ():
                if name != AVERAGE or has_averages:
                    # A third moment stays where amsgrad has been switched off.
                    is_needed = name not in (MOMENTS[2], SCALES[MOMENTS[2]]) or group["amsgrad"] is True
                    shape = tuple(stored_shape(entry["shape"], element, kept))
                    yield f"{name}/{key}", is_needed, (CODES[kept.stored or element.real], shape)


def _kept(group: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Kept]:
    """Return how a parameter's state lies, by what the metadata say."""
    hyper = DEFAULTS._replace(**{name: group[name] for name in PRECISION if name in group})
    return kept_of(hyper, ELEMENTS[entry["dtype"]])
