"""Steps over several ranks have the bits of one process whose gradients are the mean."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes as ml_dtypes
import numpy as np
from mpi4py import MPI

import fastadam
import fastadam.mpi
from fastadam.mpi import lanes
from tests.mpi.cases import CASES, FEWER, STEPS, Case
from tests.support.bits import assert_same_bits

COMM = MPI.COMM_WORLD
SIXTEEN = ("float16", "bfloat16")


def arrays(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], seed: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for i, shape in enumerate(shapes):
        dtype = np.dtype(dtypes[i % len(dtypes)])
        numbers = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype.kind == "c" else 0)
        made.append(np.asarray(numbers).astype(dtype).reshape(shape))
    return made


def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of the ranks' gradients, as the documentation says that it is."""
    dtype = np.float32 if parts[0].dtype.name in SIXTEEN else parts[0].dtype
    total = parts[0].astype(dtype)
    for part in parts[1:]:
        total = total + part.astype(dtype)
    reals = np.asarray(total).reshape(-1).view({"c8": "f4", "c16": "f8"}.get(np.dtype(dtype).str[1:], dtype))
    return (reals / reals.dtype.type(len(parts))).view(dtype).reshape(parts[0].shape)


def laid_out(made: list[np.ndarray], case: Case) -> tuple[Any, list[Any], Any]:
    """Return the parameters as the case has them, the arrays that are stepped, and a group to be added later."""
    half = len(made) // 2
    named = {f"w{i}": array for i, array in enumerate(made)}
    if case.layout == "packed":
        flat = fastadam.pack(made)
        return flat, flat.param_views, None
    if case.layout == "objects":
        held = [fastadam.Parameter(array) for array in made]
        return held, [each.data for each in held], None
    if case.layout == "nested":
        return {"a": made[:half], "b": {"c": made[half], "d": made[half + 1 :]}}, made, None
    if case.layout == "named":
        order = [named["w0"], *(array for name, array in named.items() if name != "w0")]
        return [{"params": named, "lr": case.options["lr"]}], order, None
    if case.layout == "groups":
        return [{"params": made[:half], "lr": 0.1}, {"params": made[half:], "betas": (0.5, 0.6)}], made, None
    if case.layout == "packed groups":
        flats = [fastadam.pack(made[:half]), fastadam.pack(made[half:])]
        views = [view for flat in flats for view in flat.param_views]
        return [{"params": flats[0]}, {"params": flats[1], "lr": 0.1}], views, None
    if case.layout == "a group more":
        return made[:half], made, {"params": made[half:], "amsgrad": True}
    return made, made, None


def make(module: Any, made: list[np.ndarray], case: Case, **more: Any) -> tuple[Any, list[Any], Any]:
    params, stepped, later = laid_out(made, case)
    options = {name: value for name, value in case.options.items() if case.layout != "named" or name != "lr"}
    return getattr(module, case.kind)(params, **options, **more), stepped, later


def train(name: str, folder: Path) -> None:
    """Run a case on all ranks, and on this process alone, and compare them after each step."""
    case = CASES[name]
    dtypes = case.dtypes.split()
    first = arrays(case.shapes, dtypes, 0)
    # What others than rank 0 begin with does not matter.
    mine = [array.copy() if COMM.rank == 0 else np.zeros_like(array) for array in first]
    one, expected, later = make(fastadam, [array.copy() for array in first], case)
    many, found, many_later = make(fastadam.mpi, mine, case, timeout=60)
    grad_dtypes = dtypes if case.grad_dtype is None else [case.grad_dtype]
    for step in range(FEWER.get(name, STEPS)):
        if step in case.change:
            for optimizer in (one, many):
                case.change[step](optimizer)
        if later is not None and step == 10:
            one.add_param_group(later)
            many.add_param_group(many_later)
        n = len(one._groups.members)
        every = [arrays(case.shapes[:n], grad_dtypes, [1, step, rank]) for rank in range(COMM.size)]
        if step in case.spoiled:
            every[-1][0][5] = np.nan
        means: list[Any] = [mean(parts) for parts in zip(*every, strict=True)]
        own: list[Any] = every[COMM.rank]
        for position in case.missing(step):
            means[position] = own[position] = None
        if case.layout == "packed" and all(grad is not None for grad in own):
            flat = many._groups[0].packed
            for view, grad in zip(flat.grad_views, own, strict=True):
                view[...] = grad
            many.step(**case.step)
            own = flat.grad_views
        elif case.layout == "nested":
            half = len(case.shapes) // 2
            many.step({"a": own[:half], "b": {"c": own[half], "d": own[half + 1 :]}}, **case.step)
        else:
            many.step(own if case.layout != "named" else _by_name(many, own), **case.step)
        _step(one, means, case)
        assert many.grad_norm == one.grad_norm or (np.isnan(many.grad_norm) and np.isnan(one.grad_norm)), step
        assert many.skipped_steps == one.skipped_steps
        for i, (actual, right) in enumerate(zip(found[:n], expected[:n], strict=True)):
            assert_same_bits(np.asarray(actual), np.asarray(right), f"parameter {i} after step {step}")
        if case.step.get("zero_grad"):
            assert not any(grad.any() for grad in own if grad is not None)
    compare_states(many.state_dict(), one.state_dict())
    _compare_shares(many, one)
    if many.ema_decay is not None:
        before = [np.array(array) for array in found]
        with many.averaged(), one.averaged():
            for actual, right in zip(found, expected, strict=True):
                assert_same_bits(np.asarray(actual), np.asarray(right), "average")
        for actual, right in zip(found, before, strict=True):
            assert_same_bits(np.asarray(actual), right, "after averaged()")


def _by_name(optimizer: Any, grads: Sequence[Any]) -> dict[str, Any]:
    return {member.name: grad for member, grad in zip(optimizer._groups.members, grads, strict=True)}


def _step(one: Any, means: list[Any], case: Case) -> None:
    """Step the optimizer of one process, whose gradients are copies that may become zero."""
    grads = [None if each is None else each.copy() for each in means]
    if case.layout == "named":
        one.step(_by_name(one, grads), **case.step)
    elif case.layout == "nested":
        half = len(case.shapes) // 2
        one.step({"a": grads[:half], "b": {"c": grads[half], "d": grads[half + 1 :]}}, **case.step)
    else:
        one.step(grads, **case.step)


def compare_states(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fail unless two state dicts are the same, to the bits."""
    assert actual["state"].keys() == expected["state"].keys()
    assert repr(actual["param_groups"]) == repr(expected["param_groups"])
    for key, entry in expected["state"].items():
        assert actual["state"][key].keys() == entry.keys()
        for name, value in entry.items():
            assert_same_bits(np.asarray(actual["state"][key][name]), np.asarray(value), f"{name} of {key}")


def _compare_shares(many: Any, one: Any) -> None:
    """Fail unless what this rank shows in `state` and `ema` are its shares."""
    for key, entry in one.state.items():
        share, own = many.share(key), many.state[key]
        assert own["step"] == entry["step"]
        assert own.keys() == entry.keys()
        for name in own.keys() - {"step"}:
            assert_same_bits(own[name].reshape(-1), np.asarray(entry[name]).reshape(-1)[share], name)
    for key, average in one.ema.items():
        assert_same_bits(many.ema[key], average.reshape(-1)[many.share(key)], "ema")


def small_buffers(folder: Path) -> None:
    """Many rounds through small buffers give the same bits."""
    before = lanes.BUFFER
    lanes.BUFFER = 4096
    try:
        for name in ("in several rounds", "all dtypes", "None in turns", "packed", "int8 with all"):
            train(name, folder)
    finally:
        lanes.BUFFER = before


def on_disk(folder: Path) -> None:
    """State in files, one for each rank, has the same bits."""
    first = arrays(CASES["int8"].shapes, ["float32"], 0)
    mine, alone = ([array.copy() for array in first] for _ in range(2))
    path = folder / f"moments-{COMM.size}-{COMM.rank}.bin"
    many = fastadam.mpi.AdamW(mine, ema_decay=0.5, state_dtype="int8", state_path=path, timeout=60)
    one = fastadam.AdamW(alone, ema_decay=0.5, state_dtype="int8")
    for step in range(5):
        every = [arrays(CASES["int8"].shapes, ["float32"], [1, step, rank]) for rank in range(COMM.size)]
        many.step(every[COMM.rank])
        one.step([mean(parts) for parts in zip(*every, strict=True)])
    for actual, right in zip(mine, alone, strict=True):
        assert_same_bits(actual, right)
    compare_states(many.state_dict(), one.state_dict())


OTHERS = {"small buffers": small_buffers, "on disk": on_disk}
CHECKS = {name: functools.partial(train, name) for name in CASES} | OTHERS
