"""Adam's state from and to PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadam.adam import Adam
from fastadam.convert.exchange import Source, check_optimizer, describe, pair, saved_for, take_over
from fastadam.groups.loading import TORCH_ONLY
from fastadam.groups.matching import Described
from fastadam.memory.arrays import Array
from fastadam.memory.devices import on_host
from fastadam.memory.structs import AVERAGE, KEPT, MOMENTS, SCALES
from fastadam.memory.words import counted
from fastadam.step.compact import count_blocks
from fastadam.step.compact_arrays import decode
from fastadam.step.hyperparameters import KEYS, STAYING
from fastadam.step.precision import CODES

if TYPE_CHECKING:
    from torch.optim import Optimizer

MOST_IN_FLOAT32 = 2**24  # a float32 counter stops here
# What torch's groups have beside our options.
TORCH_DEFAULTS = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}


def from_torch(source: Optimizer | Mapping[str, Any] | str | os.PathLike[str], opt: Adam) -> None:
    """Take over the state and options of torch's Adam or AdamW, so that training goes on here.

    The counterpart of ``opt.load_state_dict(torch_optimizer.state_dict())`` that also reads files, tensors on
    other devices, and bfloat16 or float16 states, and makes sure that it is Adam's.

    Parameters
    ----------
    source : torch.optim.Adam, torch.optim.AdamW, mapping, str or path-like
        The optimizer (`fastadam.torch`'s too), its state dict, or a file in which ``torch.save`` has put its
        state dict. Files are read whole, with ``weights_only=True``, which runs no code from them.
    opt : Adam
        The optimizer to write to. It has as many groups; parameters are matched by name within a group where
        torch has names (``param_names``) and `opt` too, else in their order. Their values are not touched:
        ``tensor.detach().numpy()`` shares a CPU tensor's memory.

    Raises
    ------
    TypeError, ValueError
        If it is not the state of Adam or AdamW, or does not fit: something is missing, unexpected or of
        another shape or dtype, a counter is no whole number, an option is out of range or unknown here. The
        optimizer is as before then.
    RuntimeError
        If the memory of a tensor in it was freed.
    ImportError
        If torch is missing.

    Notes
    -----
    - bfloat16 and float16 moments go to float32 or float64 parameters, and float32 ones to float64: every
      number is kept. A narrower dtype here is refused, since it would lose digits.
    - Options of torch that say how, not what, is computed have no counterpart and are left out: ``foreach``,
      ``fused``, ``capturable``, ``differentiable``; so are the notes that schedulers leave in groups. A
      scheduler itself is not in a state dict: the learning rate stays at its last value, or give
      ``param_groups[i]["lr"]`` a function.
    - State dicts of older versions of torch do not say whether weight decay is decoupled; then `opt` keeps its
      own ``decoupled_weight_decay``.
    - torch's float32 counter stops at 2**24 steps; by then the bias corrections are 1 unless a beta is above
      0.999999.
    - Results agree with torch's to the last digits, not in every bit.

    Examples
    --------
    >>> import numpy as np, torch, fastadam
    >>> from fastadam import convert
    >>> weight = torch.ones(3, requires_grad=True)
    >>> theirs = torch.optim.AdamW([("weight", weight)], lr=0.5)
    >>> weight.grad = torch.ones(3)
    >>> theirs.step()
    >>> ours = fastadam.AdamW({"weight": weight.detach().numpy()})
    >>> convert.from_torch(theirs, ours)
    >>> ours.state["weight"]["step"], ours.param_groups[0]["lr"]
    (np.int64(1), 0.5)
    """
    check_optimizer(opt)
    import torch

    saved = _read(source, torch)
    state, saved_groups = saved["state"], saved["param_groups"]
    if not isinstance(state, Mapping) or not isinstance(saved_groups, Sequence) or isinstance(saved_groups, str):
        raise TypeError("in the state dict, 'state' must be a mapping and 'param_groups' a list")
    if len(saved_groups) != len(opt.param_groups):
        raise ValueError(
            f"the source has {counted(len(saved_groups), 'parameter group')}, the optimizer has "
            f"{len(opt.param_groups)}; make it with as many"
        )
    groups, used = [], set()
    for i, group in enumerate(saved_groups):
        where = f"source, param_groups[{i}]: "
        keys, names = _check_group(group, where)
        options = {key: _plain(value) for key, value in group.items() if key in KEYS}
        sources = []
        for key, name in zip(keys, names, strict=True):
            if key in used:
                raise ValueError(f"{where}the entry {key} appears twice in 'params'")
            used.add(key)
            sources.append(_source(state.get(key, {}), name, key))
        groups.append((options, sources))
    extra = [key for key in state if key not in used]
    if extra:
        raise ValueError(f"the source has state for {extra[:5]}, which no parameter group lists")

    def copy(target: Array, moment: Any, name: str, options: Mapping[str, Any]) -> None:
        with torch.no_grad():
            torch.from_numpy(target).copy_(moment)

    with opt._exclusive("from_torch") as contents:
        take_over("from_torch", contents, groups, copy)


def to_torch(opt: Adam, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Return an optimizer's state and options as a state dict for torch's Adam or AdamW.

    ``optimizer.load_state_dict(to_torch(opt, optimizer))`` lets training go on in torch, and
    ``torch.save(to_torch(opt), path)`` writes a file that torch reads.

    Parameters
    ----------
    opt : Adam
        The optimizer.
    optimizer : torch.optim.Adam or torch.optim.AdamW, optional
        The one that the state dict is for (`fastadam.torch`'s too). With it, the state dict has its order and
        keeps its ``foreach``, ``fused`` and the like, and everything is checked against it, which torch's
        ``load_state_dict`` does not do: parameters match by name where both have names, else in their order.

    Returns
    -------
    dict
        In torch's layout, with tensors on the CPU that share no memory with `opt`. It says whether weight decay
        is decoupled, which torch's Adam takes up, and AdamW does not: that one always decouples.

    Raises
    ------
    TypeError, ValueError
        If `lr` is a function, which torch does not have; or if `opt` does not fit `optimizer`.
    ImportError
        If torch is missing.

    Notes
    -----
    The step counters are float32 tensors, as torch has them, and float64 where float32 cannot count on, from
    2**24. Averages are in it as ``"ema"``, which `fastadam.torch` takes up and torch's optimizers leave alone.
    torch casts moments to the dtype of its parameter when it loads them; with `optimizer`, a dtype that
    would lose digits is refused.

    Compact state is decoded to float32; codes, scales and masters stay here. Masters are lost: torch goes on from
    the weights. State of 8 bits that comes back is encoded anew, to nearest.

    Examples
    --------
    >>> import numpy as np, torch, fastadam
    >>> from fastadam import convert
    >>> w = np.ones(3, np.float32)
    >>> ours = fastadam.Adam([w], lr=0.5)
    >>> ours.step([np.ones(3, np.float32)])
    >>> theirs = torch.optim.Adam([torch.from_numpy(w)])
    >>> theirs.load_state_dict(convert.to_torch(ours, theirs))
    >>> theirs.param_groups[0]["lr"], theirs.state[theirs.param_groups[0]["params"][0]]["step"]
    (0.5, tensor(1.))
    """
    check_optimizer(opt)
    import torch

    targets = [None] * len(opt.param_groups) if optimizer is None else _targets(optimizer, len(opt.param_groups))
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    with opt._exclusive("to_torch") as contents:
        members, current = contents.members, saved_for(contents, "to_torch")
        start = 0
        for i, (group, target) in enumerate(zip(current["param_groups"], targets, strict=True)):
            if callable(group["lr"]):
                raise TypeError(
                    f"to_torch: lr of param_groups[{i}] is a function, which torch does not have; set it to a "
                    f"number, and use a scheduler of torch from there"
                )
            positions = group["params"]
            options = {**TORCH_DEFAULTS, **group}
            if target is not None:
                if _is_adamw(optimizer) and group["weight_decay"] and not group["decoupled_weight_decay"]:
                    raise ValueError(
                        f"to_torch: weight_decay of param_groups[{i}] is not decoupled, and torch's AdamW always "
                        f"decouples it; take torch.optim.Adam"
                    )
                ours = [members[position] for position in positions]
                positions = [positions[k] for k in pair("to_torch", ours, _describe_group(target, start))]
                options = {**target, **{key: group[key] for key in KEYS if key not in STAYING}}
            for k, position in enumerate(positions, start):
                if position in current["state"]:
                    result["state"][k] = _entry(current["state"][position], torch)
            result["param_groups"].append({**options, "params": list(range(start, start + len(positions)))})
            start += len(positions)
    return result


def _read(source: Any, torch: Any) -> Mapping[str, Any]:
    """Return the state dict that the user means."""
    where = "the source"
    if isinstance(source, str | os.PathLike):
        where = f"the file {os.fspath(source)!r}"
        try:
            # Read, not mapped: torch compares neither sizes nor checksums of what it maps.
            source = torch.load(source, map_location="cpu", weights_only=True, mmap=False)
        except OSError:
            raise
        except Exception as error:  # torch's errors for bad files are of no common class but this one
            raise ValueError(f"{where} cannot be read as one that torch.save has written: {error}") from error
    elif hasattr(source, "state_dict"):
        _check_class(source, "source")
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(f"{where} must hold a state dict of torch's Adam, got {type(source).__name__}")
    if not {"state", "param_groups"} <= set(source):
        raise ValueError(
            f"{where} has the keys {sorted(map(str, source))[:10]}, not 'state' and 'param_groups'; if one of "
            f"them holds the optimizer's state dict, pass that: torch.load(path, weights_only=True)[key]"
        )
    return source


def _bases(optimizer: Any) -> set[tuple[str, str]]:
    return {(each.__name__, each.__module__.partition(".")[0]) for each in type(optimizer).__mro__}


def _is_adamw(optimizer: Any) -> bool:
    return ("AdamW", "torch") in _bases(optimizer)


def _check_class(optimizer: Any, name: str) -> None:
    if not _is_adamw(optimizer) and ("Adam", "torch") not in _bases(optimizer):
        kind = type(optimizer).__name__
        raise TypeError(f"{name} must be torch's Adam or AdamW, or derived from one, got {kind}")


def _check_group(group: Any, where: str) -> tuple[Sequence[int], Sequence[str | None]]:
    """Return the keys and names of a group's parameters."""
    if not isinstance(group, Mapping) or not isinstance(group.get("params"), list | tuple):
        raise ValueError(f"{where}a parameter group must be a mapping with a list 'params'")
    keys = group["params"]
    if not all(type(key) is int for key in keys):
        raise TypeError(f"{where}'params' must be a list of the numbers of entries, got {keys!r:.100}")
    for key in ("lr", "betas", "eps", "weight_decay", "amsgrad"):
        if key not in group:
            raise ValueError(f"{where}there is no {key!r}, so it is not the state of torch's Adam or AdamW")
    for key in group:
        if key not in (*KEYS, *TORCH_ONLY, "params", "param_names"):
            raise ValueError(
                f"{where}the option {key!r} is none of Adam's; if it changes nothing that is computed, remove it"
            )
    names = group.get("param_names")
    if names is None:
        return keys, [None] * len(keys)
    if not isinstance(names, list | tuple) or len(names) != len(keys):
        raise ValueError(f"{where}'param_names' must be a list of {len(keys)} names, got {names!r:.100}")
    return keys, names


def _source(entry: Any, name: str | None, key: int) -> Source:
    from fastadam.torch.tensors import has_its_memory  # imports torch, as who gave the entry has done

    label = f"parameter {key if name is None else name!r}"
    if not isinstance(entry, Mapping):
        raise TypeError(f"source, {label}: its state must be a mapping, got {type(entry).__name__}")
    if not entry:
        return Source(name, label, 0, {})
    for needed in ("step", *MOMENTS[:2]):
        if needed not in entry:
            raise ValueError(f"source, {label}: its state has no {needed!r}, so it is not Adam's")
    moments = {kind: value for kind, value in entry.items() if kind != "step"}
    for kind, value in moments.items():
        if kind not in KEPT:
            raise ValueError(f"source, {label}: its state has the unknown key {kind!r}, so it is not Adam's")
        # Quantized, distributed, sparse and data-less tensors are no plain numbers.
        plain = type(value).__name__ in ("Tensor", "Parameter") and str(value.layout) == "torch.strided"
        if not plain or value.is_quantized or value.is_meta:
            raise TypeError(
                f"source, {label}: {kind} is a {type(value).__name__} that is no plain dense tensor; convert "
                f"the state dict to such ones first"
            )
        if not has_its_memory(value):
            raise RuntimeError(f"source, {label}: {kind} has a storage that was freed or shrunk; restore it first")
    return Source(name, label, _plain(entry["step"]), _numbers(moments, label))


def _numbers(moments: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return numbers for codes of 8 bits, as `fastadam.torch` saves them, and leave masters out."""
    import torch

    found = {name: value for name, value in moments.items() if name in (*MOMENTS, AVERAGE)}
    for name, beside in SCALES.items():
        has_codes = name in found and found[name].dtype in (torch.int8, torch.uint8)
        if not has_codes and beside not in moments:
            continue
        number_format = CODES[name]
        codes, scale = found.get(name), moments.get(beside)
        if codes is None or scale is None:
            raise ValueError(
                f"source, {label}: {name} and {beside} belong together, and one is missing; load the state dict "
                f"as fastadam.torch made it"
            )
        stored, scales = (on_host(each.detach().cpu().numpy()) for each in (codes, scale))
        blocks = count_blocks(stored.size)
        if stored.dtype != number_format.stored or scales.dtype != np.float32 or scales.shape != (blocks,):
            raise ValueError(
                f"source, {label}: {name} must have codes of {number_format.stored}, and {beside} {blocks} "
                f"numbers of float32 in one row, got {stored.dtype}, and {scales.dtype} of shape {scales.shape}; "
                f"load the state dict as fastadam.torch made it"
            )
        found[name] = torch.from_numpy(decode(stored, scales, number_format))
    return found


def _plain(value: Any) -> Any:
    """Return numbers for tensors of one element, which torch takes as options and counters."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "numel") and value.numel() == 1 else value


def _targets(optimizer: Any, groups: int) -> list[Mapping[str, Any]]:
    _check_class(optimizer, "optimizer")
    if len(optimizer.param_groups) != groups:
        raise ValueError(
            f"to_torch: opt has {counted(groups, 'parameter group')}, optimizer has "
            f"{len(optimizer.param_groups)}; make it with as many"
        )
    return list(optimizer.param_groups)


def _describe_group(group: Mapping[str, Any], start: int) -> list[Described]:
    tensors = group["params"]
    names = group.get("param_names") or [None] * len(tensors)
    return [
        Described(name, f"parameter {start + k if name is None else name!r}", [describe(tensor)])
        for k, (name, tensor) in enumerate(zip(names, tensors, strict=True))
    ]


def _entry(entry: Mapping[str, Any], torch: Any) -> dict[str, Any]:
    """Return the state of one parameter as torch has it, in memory of its own."""
    step = int(entry["step"])
    dtype = torch.float32 if step < MOST_IN_FLOAT32 else torch.float64
    moments = {
        name: torch.from_numpy(on_host(entry[name]).copy()) for name in (*MOMENTS, AVERAGE) if name in entry
    }
    return {"step": torch.tensor(float(step), dtype=dtype), **moments}
