"""Checkpoints over MPI: the files of one process, loaded over any number of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes as ml_dtypes
import numpy as np
import pytest
from mpi4py import MPI

import fastadam
import fastadam.mpi
from fastadam.mpi import RankError
from tests.mpi.same_bits import arrays, compare_states
from tests.support.bits import assert_same_bits, assert_same_state, snapshot

COMM = MPI.COMM_WORLD
IS_LAST = COMM.rank == COMM.size - 1
SHAPES: list[tuple[int, ...]] = [(3000,), (), (0, 4), (40, 70), (1025,), (63,)]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("float32", {}),
    "all": ("float32 complex64 float64", {"amsgrad": True, "ema_decay": 0.9, "weight_decay": 0.1}),
    "int8": ("float32", {"state_dtype": "int8", "ema_decay": 0.5}),
    "masters": ("bfloat16 float16 float32", {"master_weights": True, "state_dtype": "bfloat16"}),
    "schedule": ("float32", {"lr": fastadam.schedules.Cosine(0.1, 100)}),
}


def make(module: Any, kind: str, **more: Any) -> tuple[dict[str, np.ndarray], Any]:
    dtypes, options = KINDS[kind]
    params = {f"w{i}": array for i, array in enumerate(arrays(SHAPES, dtypes.split(), 0))}
    return params, module.AdamW(params, **options, **more)


def train(optimizer: Any, kind: str, begin: int, end: int) -> None:
    """Take steps; every rank has the same gradients, which are their mean, as long as nothing is rounded."""
    dtypes = KINDS[kind][0].split()
    for step in range(begin, end):
        grads = dict(zip((f"w{i}" for i in range(len(SHAPES))), arrays(SHAPES, dtypes, [2, step]), strict=True))
        # Whole numbers, of which three can be added up and divided by three exactly.
        optimizer.step({name: _whole(grad) for name, grad in grads.items()})


def _whole(grad: np.ndarray) -> np.ndarray:
    made = np.empty_like(grad)
    made[...] = np.round(4 * np.asarray(grad, "c16" if grad.dtype.kind == "c" else "f8"))
    return made


def files(folder: Path) -> None:
    """Write the very bytes of one process, load them over these ranks and there, and go on with the same bits."""
    for kind in KINDS:
        path = folder / f"{kind}-{COMM.size}.safetensors"
        params, many = make(fastadam.mpi, kind, timeout=60)
        train(many, kind, 0, 5)
        fastadam.save(path, many, extra={"step": 5})
        one_params, one = make(fastadam, kind)
        train(one, kind, 0, 5)
        if COMM.rank == 0:
            fastadam.save(folder / f"{kind}-one-{COMM.size}.safetensors", one, extra={"step": 5})
            assert path.read_bytes() == (folder / f"{kind}-one-{COMM.size}.safetensors").read_bytes(), kind
            assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]
        train(many, kind, 5, 8)
        other_params, other = make(fastadam.mpi, kind, timeout=60)
        train(other, kind, 0, 1)
        assert fastadam.load(path, other) == {"step": 5}
        train(other, kind, 5, 8)
        assert fastadam.load(path, one) == {"step": 5}
        train(one, kind, 5, 8)
        for name, param in params.items():
            assert_same_bits(other_params[name], param, name)
            assert_same_bits(one_params[name], param, name)
        compare_states(other.state_dict(), many.state_dict())
        compare_states(one.state_dict(), many.state_dict())
        again_params, again = make(fastadam.mpi, kind, timeout=60)
        again.load_state_dict(one.state_dict())
        for name, param in one_params.items():
            again_params[name][...] = param
        train(again, kind, 8, 10)
        train(many, kind, 8, 10)
        for name, param in params.items():
            assert_same_bits(again_params[name], param, name)


def without_parameters(folder: Path) -> None:
    """Save the state alone."""
    path = folder / f"state-{COMM.size}.safetensors"
    _, many = make(fastadam.mpi, "all", timeout=60)
    train(many, "all", 0, 3)
    fastadam.save(path, many, params=False)
    params, other = make(fastadam.mpi, "all", timeout=60)
    before = {name: param.copy() for name, param in params.items()}
    fastadam.load(path, other)
    for name, param in params.items():
        assert_same_bits(param, before[name], name)
    compare_states(other.state_dict(), many.state_dict())


def refused(folder: Path) -> None:
    """Leave the old file where one rank cannot write or has something else; load nothing where one cannot."""
    if COMM.size == 1:
        return  # there is nobody to differ from
    path = folder / f"refused-{COMM.size}.safetensors"
    params, many = make(fastadam.mpi, "plain", timeout=60)
    train(many, "plain", 0, 2)
    fastadam.save(path, many)
    old = path.read_bytes()
    train(many, "plain", 2, 3)
    other = RankError
    attempts: list[tuple[Callable[[], None], Any, str]] = [
        (lambda: fastadam.save(path, many, extra={"a": COMM.rank}), other, "differ in extra"),
        (lambda: fastadam.save(path, many, params=not IS_LAST), other, "differ in extra"),
        (lambda: fastadam.save(f"{path}{'x' if IS_LAST else ''}", many), other, "differ in the path"),
        (lambda: fastadam.save(path, many, extra={"a": {1} if IS_LAST else [1]}), TypeError, "saved as JSON"),
        (lambda: fastadam.save(folder if IS_LAST else path, many), IsADirectoryError, "is a directory"),
        (lambda: fastadam.load(f"{path}.no" if IS_LAST else path, many), FileNotFoundError, "No such file"),
    ]
    before = snapshot(many)
    for attempt, kind, match in attempts:
        with pytest.raises(kind if IS_LAST else RankError, match=match):
            attempt()
        COMM.Barrier()
        assert path.read_bytes() == old
        assert_same_state(snapshot(many), before)
    names = [name for name in os.listdir(folder) if name.startswith(f".refused-{COMM.size}")]
    assert not names
    if IS_LAST:
        params["w0"].shape = (3000, 1)
    with pytest.raises(ValueError if IS_LAST else RankError, match="give it back its shape"):
        fastadam.save(path, many)
    params["w0"].shape = (3000,)
    fastadam.save(path, many)
    COMM.Barrier()
    assert path.read_bytes() != old


def in_the_middle(folder: Path) -> None:
    """Leave the old file where a rank fails while it writes."""
    from fastadam.checkpoint import writing

    path = folder / f"middle-{COMM.size}.safetensors"
    _, many = make(fastadam.mpi, "plain", timeout=60)
    train(many, "plain", 0, 2)
    fastadam.save(path, many)
    COMM.Barrier()
    old = path.read_bytes()
    train(many, "plain", 2, 3)
    own = writing._write_tensors

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for failing in (0, COMM.size - 1):
        if COMM.rank == failing:
            writing._write_tensors = full
        with pytest.raises(OSError if COMM.rank == failing else RankError, match="No space left"):
            fastadam.save(path, many)
        writing._write_tensors = own
        COMM.Barrier()
        assert path.read_bytes() == old
        assert not [name for name in os.listdir(folder) if name.startswith(f".middle-{COMM.size}")]
        COMM.Barrier()
    fastadam.save(path, many)


def write_one(folder: Path) -> None:
    """Leave a file for other numbers of ranks, and what a step after it gives."""
    params, many = make(fastadam.mpi, "all", timeout=60)
    train(many, "all", 0, 4)
    fastadam.save(folder / f"from-{COMM.size}.safetensors", many)
    train(many, "all", 4, 6)
    if COMM.rank == 0:
        digest = {name: param.tobytes().hex() for name, param in params.items()}
        (folder / f"from-{COMM.size}.json").write_text(json.dumps(digest))


CHECKS = {each.__name__: each for each in (files, without_parameters, refused, in_the_middle, write_one)}
