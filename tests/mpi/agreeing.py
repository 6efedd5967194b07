"""Where one rank has something else, or fails a check, every rank raises, and nothing is written."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import fastadam
import fastadam.mpi
from fastadam.mpi import RankError
from tests.support.bits import assert_same_state, snapshot

COMM = MPI.COMM_WORLD
IS_LAST = COMM.rank == COMM.size - 1
LAST = COMM.size - 1


def make(**options: Any) -> tuple[dict[str, np.ndarray], Any]:
    params = {"w": np.ones((3, 700), np.float32), "b": np.zeros(5, np.float32)}
    return params, fastadam.mpi.Adam(params, **options, timeout=60)


def gradients() -> dict[str, Any]:
    return {"w": np.ones((3, 700), np.float32), "b": np.ones(5, np.float32)}


def goes_on(params: dict[str, np.ndarray], optimizer: Any) -> None:
    """Fail unless the ranks can take a step together."""
    before = params["w"].copy()
    optimizer.step(gradients())
    assert (params["w"] != before).all()


def one_fails(spoil: Callable[[Any, dict[str, Any]], dict[str, Any]], own: type, match: str) -> None:
    """Fail unless what spoils the last rank's step makes it raise its own error, and the others name it."""
    params, optimizer = make()
    optimizer.step(gradients())
    given = gradients()
    arguments: dict[str, Any] = {"grads": given}
    if IS_LAST:
        arguments |= spoil(optimizer, given)
    before = snapshot(optimizer)
    with pytest.raises(own if IS_LAST else RankError, match=match) as raised:
        optimizer.step(**arguments)
    if not IS_LAST:
        assert f"rank {LAST} raised {own.__name__}" in str(raised.value)
    assert_same_state(snapshot(optimizer), before)
    optimizer.lr = 0.001
    goes_on(params, optimizer)


def they_differ(spoil: Callable[[Any, dict[str, Any]], dict[str, Any]], match: str) -> None:
    """Fail unless all ranks raise the same where the last one has something else."""
    _, optimizer = make()
    optimizer.step(gradients())
    given = gradients()
    arguments: dict[str, Any] = {"grads": given}
    if IS_LAST:
        arguments |= spoil(optimizer, given)
    before = snapshot(optimizer)
    with pytest.raises(RankError, match=match):
        optimizer.step(**arguments)
    assert_same_state(snapshot(optimizer), before)


def _shape(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given["b"] = np.ones(4, np.float32)
    return {}


def _aliased(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given["b"] = optimizer._groups.members[1].given
    return {}


def _missing_key(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    del given["b"]
    return {}


def _option(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    optimizer.param_groups[0]["lr"] = -1.0
    return {}


def _read_only(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given["b"].flags.writeable = False
    return {"zero_grad": True}


def _closure(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {"closure": lambda: 1 / 0}


def _rows(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given["w"] = fastadam.Rows([1], np.ones((1, 700), np.float32))
    return {}


def _none(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given["b"] = None
    return {}


def _all_none(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given.update(w=None, b=None)
    return {}


def _lr(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    optimizer.lr = 0.5
    return {}


def _clip(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    optimizer.max_grad_norm = 1.0
    return {}


def _dtype(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
    given["b"] = given["b"].astype(np.float16)
    return {}


FAILING: dict[str, tuple[Any, type, str]] = {
    "a gradient's shape": (_shape, ValueError, "gradient of parameter 'b' has shape"),
    "a gradient that is a parameter": (_aliased, ValueError, "shares memory"),
    "a gradient is not there": (_missing_key, ValueError, "'b'"),
    "an edited option": (_option, ValueError, "lr"),
    "a gradient that cannot be zeroed": (_read_only, ValueError, "read-only"),
    "the closure": (_closure, ZeroDivisionError, "division"),
    "rows": (_rows, TypeError, "'w' is fastadam.Rows, and ranks share out whole parameters"),
    "a mask": (
        lambda optimizer, given: {"mask": {"b": np.ones(5, bool)}},
        TypeError,
        "mask is for an optimizer of",
    ),
    "grad_scale": (lambda optimizer, given: {"grad_scale": 0.0}, ValueError, "grad_scale must be positive"),
}
DIFFERING: dict[str, tuple[Any, str]] = {
    "None": (_none, "are None: rank 0 has all gradients, and rank . has no gradient of parameter 'b'"),
    "None of all": (_all_none, "which gradients are None"),
    "lr": (_lr, r"the options: rank 0 has lr=0.001 in param_groups\[0\], and rank . has lr=0.5"),
    "clipping": (_clip, "max_grad_norm=None, and rank . has max_grad_norm=1.0"),
    "grad_scale": (lambda optimizer, given: {"grad_scale": 2.0}, "grad_scale=1.0, and rank . has grad_scale=2.0"),
    "dtypes": (_dtype, "the dtypes of gradients: rank 0 has float32 1, and rank . has float16 1"),
}  # fmt: skip


def schedules(folder: Path) -> None:
    """Compare what schedules return."""
    rate = 0.1 if IS_LAST else 0.2
    params = np.ones(4)
    optimizer = fastadam.mpi.Adam(params, lr=lambda step: rate, timeout=60)
    with pytest.raises(RankError, match=r"the learning rates .* rank 0 has 0.2, and rank . has 0.1"):
        optimizer.step(params * 1)
    assert (params == 1).all()


def other_calls(folder: Path) -> None:
    """Tell ranks that call different methods so."""
    _, optimizer = make()
    call = optimizer.state_dict if IS_LAST else functools.partial(optimizer.step, gradients())
    with pytest.raises(RankError, match=r"rank 0 calls step, and rank . calls state_dict"):
        call()


def other_parameters(folder: Path) -> None:
    """Compare parameters in the constructor and in `add_param_group`, which begin with the numbers of rank 0."""
    with pytest.raises(
        RankError, match=r"rank 0 has parameter 0 of shape \(3,\).*has parameter 0 of shape \(4,\)"
    ):
        fastadam.mpi.Adam(np.zeros(4 if IS_LAST else 3), timeout=60)
    with pytest.raises(RankError, match=r"dtype float64.*dtype float32"):
        fastadam.mpi.Adam(np.zeros(4, "f4" if IS_LAST else "f8"), timeout=60)
    with pytest.raises(RankError, match=r"'a'.*'b'"):
        fastadam.mpi.Adam({"b" if IS_LAST else "a": np.zeros(4)}, timeout=60)
    with pytest.raises(ValueError if IS_LAST else RankError, match="lr must be"):
        fastadam.mpi.Adam(np.zeros(4), lr=-1 if IS_LAST else 1, timeout=60)
    with pytest.raises(ValueError if IS_LAST else RankError, match="timeout must be a positive"):
        fastadam.mpi.Adam(np.zeros(4), timeout=0 if IS_LAST else 60)
    _, optimizer = make()
    group = {"params": {name: np.zeros(3) for name in ("x" if IS_LAST else "xy")}}
    with pytest.raises(RankError, match=r"2 parameters.*1 parameter"):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    added = np.full(3, float(COMM.rank + 1))
    optimizer.add_param_group({"params": {"x": added}})
    assert (added == 1).all()
    optimizer.step(gradients() | {"x": np.ones(3)})
    assert (added < 1).all()


def other_options(folder: Path) -> None:
    """Options are compared in the first step."""
    _, optimizer = make(amsgrad=bool(IS_LAST))
    with pytest.raises(RankError, match=r"amsgrad=False in.*amsgrad=True in"):
        optimizer.step(gradients())


def states(folder: Path) -> None:
    """Load a state dict on no rank if one cannot."""
    _, optimizer = make()
    optimizer.step(gradients())
    saved = optimizer.state_dict()
    optimizer.step(gradients())
    before = snapshot(optimizer)
    if IS_LAST:
        saved["state"][0]["exp_avg"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError if IS_LAST else RankError, match="exp_avg has shape"):
        optimizer.load_state_dict(saved)
    assert_same_state(snapshot(optimizer), before)


def not_finite(folder: Path) -> None:
    """`error_if_nonfinite` raises the same on every rank, whoever has the gradient, and whoever its share."""
    params, optimizer = make(error_if_nonfinite=True)
    optimizer.step(gradients())
    before = snapshot(optimizer)
    given = gradients()
    if IS_LAST:
        given["w"][0, 0] = np.inf
    with pytest.raises(RuntimeError, match="the gradients of parameter 'w' are not finite") as raised:
        optimizer.step(given, zero_grad=True)
    assert not isinstance(raised.value, RankError)
    assert given["b"].all()
    after = snapshot(optimizer)
    assert_same_state(after, before)
    goes_on(params, optimizer)


def copies(folder: Path) -> None:
    """Refuse copies, pickles, conversions, and parameters of another size."""
    _, optimizer = make()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            attempt(optimizer)
    with (
        pytest.raises(TypeError, match=r"state_dict\(optimizer.state_dict\(\)\)"),
        optimizer._exclusive("to_torch"),
    ):
        pass
    changes = (lambda: optimizer.resize("b", grow=1), optimizer.reset, lambda: optimizer.remove_param_group(0))
    for change in changes:  # on one rank alone, as nothing is exchanged
        if IS_LAST:
            with pytest.raises(TypeError, match="is for an optimizer of one process"):
                change()


def exchanged(folder: Path) -> None:
    """Notice a parameter that was exchanged in its dict, or changed in place, before anything is sent."""
    params, optimizer = make()
    optimizer.step(gradients())
    kept = params["b"]
    if IS_LAST:
        params["b"] = kept.copy()
    with pytest.raises(ValueError if IS_LAST else RankError, match=r"params\['b'\]"):
        optimizer.step(gradients())
    params["b"] = kept
    if IS_LAST:
        kept.flags.writeable = False
    with pytest.raises(ValueError if IS_LAST else RankError, match="read-only"):
        optimizer.step(gradients())
    kept.flags.writeable = True
    goes_on(params, optimizer)


def in_a_block(folder: Path) -> None:
    """Nothing else is done within a block of `averaged`, which every rank enters."""
    params, optimizer = make(ema_decay=0.5)
    optimizer.step(gradients())
    with pytest.raises(RuntimeError, match="within a block"), optimizer.averaged():
        optimizer.step(gradients())
    goes_on(params, optimizer)
    with pytest.raises(ValueError, match="needs averages"):
        make()[1].averaged()


def members_only(folder: Path) -> None:
    """Refuse what is no communicator; let a part of the ranks have an optimizer of their own."""
    with pytest.raises(TypeError, match="comm must be an intracommunicator"):
        fastadam.mpi.Adam(np.zeros(3), comm="world")  # type: ignore[arg-type]
    part = COMM.Split(COMM.rank % 2)
    params = np.full(4, float(COMM.rank))
    optimizer = fastadam.mpi.Adam(params, comm=part, timeout=60)
    assert (params == COMM.rank % 2).all()
    optimizer.step(np.full(4, 1.0 if COMM.rank % 2 else -1.0))
    assert (np.sign(params - COMM.rank % 2) == (-1 if COMM.rank % 2 else 1)).all()


def _call(check: Callable[..., None], arguments: tuple[Any, ...], folder: Path) -> None:
    check(*arguments)


OTHERS = (
    *(schedules, other_calls, other_parameters, other_options, states, not_finite, copies, exchanged),
    *(in_a_block, members_only),
)
CHECKS: dict[str, Callable[[Path], None]] = {
    **{f"one fails: {name}": functools.partial(_call, one_fails, each) for name, each in FAILING.items()},
    **{f"they differ: {name}": functools.partial(_call, they_differ, each) for name, each in DIFFERING.items()},
    **{each.__name__: each for each in OTHERS},
}  # fmt: skip
