"""fastadam.torch on CUDA devices under Numba's simulator, in a process of its own (see `conftest.py`).

Here device memory is host memory: tensors on the CPU count as tensors on devices (the fixture `places`), and all
else, from the readers to the kernels, is what steps real ones. By hand:
``NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/backends/cuda/test_simulated_torch.py``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402 - it needs torch
from fastadam.backends.cuda import kernels as cuda_kernels  # noqa: E402
from fastadam.backends.cuda import launches  # noqa: E402
from fastadam.memory.cuda import driver as cuda_driver  # noqa: E402
from fastadam.torch import devices, part  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    assert_same_bits,
    assert_same_snapshot,
    draw,
    error_of,
    give_grads,
    members,
    params,
    snapshot,
)
from tests.torch.test_readers import careful, reader  # noqa: E402, F401 - fixtures

SHAPES = [(3, 4), (7,), (), (0,), (2, 3, 2), (17,)]
DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight decay, amsgrad": {"weight_decay": 0.1, "amsgrad": True},
    "decoupled, maximize": {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
}
STREAM = 1000  # of device 0; others count on


class Places:
    """Which device each parameter counts as being on, and what the devices were asked to do.

    Attributes
    ----------
    of : callable
        ``of(tensor)``, the number of a device or None.
    streams : dict of int to int
        The current stream of each device.
    launches : list of (int, int)
        Device and stream of each launch.
    copied : list of int
        Sizes of the copies to devices.
    """

    def __init__(self) -> None:
        self.on: dict[int, int | None] = {}
        self.streams: dict[int, int] = {}
        self.launches: list[tuple[int, int]] = []
        self.copied: list[int] = []
        self.capturing = False
        self.counters: set[int] = set()

    def put(self, optimizer: Any, *ordinals: int | None) -> Any:
        """Put the parameters on devices in turn; the optimizer is returned."""
        for i, param in enumerate(members(optimizer)):
            self.on[id(param)] = ordinals[i % len(ordinals)]
        return optimizer


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    """Let parameters count as being on devices: two of them, whose streams are told by their numbers."""
    found = Places()

    class Recorded(cuda_driver.SimulatedGpu):
        def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
            found.copied.append(nbytes)
            super().copy(target, source, nbytes, stream)

    launch = launches.SimulatedLauncher.launch

    def recorded(self: Any, kernel: Any, blocks: int, stream: int, arguments: Any) -> Any:
        found.launches.append((self.ordinal, stream))
        return launch(self, kernel, blocks, stream, arguments)

    monkeypatch.setattr(launches.SimulatedLauncher, "launch", recorded)
    monkeypatch.setattr(cuda_driver, "gpu", functools.cache(Recorded))
    monkeypatch.setattr(part, "ordinal_of", lambda tensor: found.on.get(id(tensor)))
    monkeypatch.setattr(devices, "current_stream", lambda ordinal: found.streams.get(ordinal, STREAM + ordinal))
    monkeypatch.setattr(devices, "is_capturing", lambda: found.capturing)
    monkeypatch.setattr(devices, "is_on_cuda", lambda tensor: id(tensor) in found.counters)
    return found


def pair(places: Places, *ordinals: int | None, dtype: Any = torch.float32, **options: Any) -> tuple[Any, Any]:
    """Return an optimizer over parameters on devices, and one over the same on the host."""
    ours, theirs = (fastadam.torch.Adam(params(*SHAPES, dtype=dtype), lr=0.1, **options) for _ in range(2))
    return places.put(ours, *ordinals), theirs


def assert_same(ours: Any, theirs: Any) -> None:
    assert_same_snapshot(snapshot(ours), snapshot(theirs))


def test_the_simulator_is_what_runs() -> None:
    assert cuda_kernels.SIMULATED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bits_are_those_of_the_host(
    places: Places,
    reader: str,  # noqa: F811
    careful: list[int],  # noqa: F811
    dtype: Any,
    options: dict[str, Any],
) -> None:
    ours, theirs = pair(places, 0, dtype=dtype, **options)
    for t in range(4):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t, skip=lambda step, i: step == 2 and i == 1)
            optimizer.step()
        assert set(places.launches) == {(0, STREAM)}
    assert_same(ours, theirs)
    assert len(careful) == 2, "steps after the first are taken in the short way"


@pytest.mark.parametrize("ordinals", [(None, 0), (0, 1), (1, None, 0), (None, 1, 1)], ids=str)
def test_parameters_on_several_devices(
    places: Places,
    reader: str,  # noqa: F811
    careful: list[int],  # noqa: F811
    ordinals: tuple[int | None, ...],
) -> None:
    ours, theirs = pair(places, *ordinals, weight_decay=0.1)
    for t in range(6):
        places.launches.clear()
        for optimizer in (ours, theirs):
            # All with the same gradients, then some without, also all of a device.
            give_grads(optimizer, t, skip=lambda step, i: step in (2, 4) and i % len(ordinals) == step % 3)
            optimizer.step()
        used = {ordinals[i % len(ordinals)] for i, param in enumerate(members(ours)) if param.grad is not None}
        assert sorted(places.launches) == sorted((o, STREAM + o) for o in used - {None}), "one on each device"
    assert_same(ours, theirs)
    assert len(careful) == 2


def test_groups_on_devices_with_options_of_their_own(places: Places, reader: str) -> None:  # noqa: F811
    def make() -> Any:
        first, second = params((3, 4), (7,)), params((5,), (2, 2), dtype=torch.float64, seed=1)
        groups = [{"params": first, "weight_decay": 0.1}, {"params": second, "amsgrad": True, "lr": 0.5}]
        return fastadam.torch.AdamW(groups, lr=0.1)

    ours, theirs = places.put(make(), 0, None), make()
    for t in range(5):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
            optimizer.param_groups[1]["amsgrad"] = t >= 2
            optimizer.step()
    assert_same(ours, theirs)


def strided(data: Any) -> Any:
    return torch.stack([data, data], -1)[..., 0]


ODD: dict[str, Callable[[Any], Any]] = {
    "strided": strided,
    "transposed": lambda data: data.mT.clone().mT,
    "negated on reading": lambda data: torch._neg_view(data.clone()),
    "expanded": lambda data: data[:1].expand(3, 4),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
@pytest.mark.parametrize("what", ["gradient", "parameter", "moment"])
def test_tensors_of_any_layout(places: Places, what: str, change: Callable[[Any], Any]) -> None:
    if change is ODD["expanded"] and what != "gradient":
        pytest.skip("an expanded tensor cannot be written")
    ours, theirs = pair(places, 0, None)
    for t in range(4):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            param = members(optimizer)[0]
            if what == "gradient":
                param.grad = change(param.grad)
            elif what == "parameter" and t == 2:
                param.data = change(param.data)
            elif what == "moment" and t == 2:
                optimizer.state[param]["exp_avg"] = change(optimizer.state[param]["exp_avg"])
            optimizer.step()
    assert_same(ours, theirs)


@pytest.mark.parametrize("what", ["param", "exp_avg", "state", "data"])
def test_changes_are_noticed(places: Places, reader: str, what: str) -> None:  # noqa: F811
    ours, theirs = pair(places, 0, None, 1)
    for t in range(5):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            if t == 3:
                param = members(optimizer)[0]
                state = optimizer.state[param]
                if what == "param":
                    param.data = param.data * 2
                elif what == "exp_avg":
                    state["exp_avg"] = state["exp_avg"] + 1
                elif what == "state":
                    optimizer.state[param] = {name: value.clone() for name, value in state.items()}
                else:
                    state["exp_avg_sq"].data = state["exp_avg_sq"].data * 3
            optimizer.step()
    assert_same(ours, theirs)


def test_many_tensors_are_one_launch_and_only_what_changed_is_copied(places: Places) -> None:
    ours = places.put(fastadam.torch.Adam(params(*[(i % 5 + 1,) for i in range(60)])), 0)
    give_grads(ours, 0)
    for _ in range(3):
        ours.step()
    places.launches.clear(), places.copied.clear()
    for _ in range(3):
        ours.step()
    assert places.launches == [(0, STREAM)] * 3
    assert places.copied == [11 * 4] * 3, "one row of coefficients in float32"
    kept = [param.grad for param in members(ours)]  # so that the new ones are elsewhere
    give_grads(ours, 1)
    ours.step()
    assert places.copied[-1] > 60 * 8, "the table of addresses, as the gradients have moved"
    del kept


def test_steps_go_into_the_current_stream(places: Places) -> None:
    ours, _ = pair(places, 0, 1)
    for t, stream in enumerate((5, 5, 7, 0)):
        give_grads(ours, t)
        places.streams = {0: stream, 1: stream + 100}
        places.launches.clear()
        ours.step()
        assert sorted(places.launches) == [(0, stream or 1), (1, stream + 100)]


def test_versions_are_raised(places: Places) -> None:
    ours, _ = pair(places, 0, None)
    for t in range(3):
        give_grads(ours, t)
        before = [param._version for param in members(ours)]
        ours.step()
        assert [param._version for param in members(ours)] == [version + 1 for version in before]


def test_a_loss_scale_is_undone_by_the_scaler_and_an_overflow_skips_the_step(places: Places) -> None:
    ours, theirs = pair(places, 0)
    for optimizer in (ours, theirs):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for t in range(4):
            optimizer.zero_grad()
            loss = sum((param * draw(param.shape, seed=t)).sum() for param in members(optimizer))
            scaler.scale(loss).backward()
            if t == 2:
                members(optimizer)[0].grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[members(optimizer)[0]]["step"].item() == 3
    assert_same(ours, theirs)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("at", ["reserve", "reserve_pinned"])
def test_out_of_memory_leaves_everything_as_it_was(
    places: Places, monkeypatch: pytest.MonkeyPatch, at: str, steady: bool
) -> None:
    ours, theirs = pair(places, 0, None)
    for t in range(2 * steady):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            optimizer.step()
    for optimizer in (ours, theirs):
        give_grads(optimizer, 5)
        members(optimizer)[1].grad = None  # in the steady case, a pattern that is not known yet
        members(optimizer)[0].grad = strided(members(optimizer)[0].grad)
    before = snapshot(ours)

    def fail(self: Any, nbytes: int) -> Any:
        raise MemoryError("the memory of CUDA device 0 is exhausted")

    with monkeypatch.context() as patch:
        patch.setattr(cuda_driver.SimulatedGpu, at, fail)
        assert isinstance(error_of(ours.step), MemoryError)
        after = snapshot(ours)
        if not steady:  # zeros for moments may be there already
            after = {name: value for name, value in after.items() if name in before and "state" not in name}
            before = {name: value for name, value in before.items() if "state" not in name}
        assert_same_snapshot(after, before)
    for optimizer in (ours, theirs):
        optimizer.step()
    assert_same(ours, theirs)


def test_no_memory_to_remember_a_step_does_not_fail_it(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair(places, 0)
    left = 2  # slots of the first step, and none for what is remembered of it
    reserve = cuda_driver.SimulatedGpu.reserve

    def scarce(self: Any, nbytes: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError("the memory of CUDA device 0 is exhausted")
        return reserve(self, nbytes)

    monkeypatch.setattr(cuda_driver.SimulatedGpu, "reserve", scarce)
    for t in range(3):
        left = 2
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            optimizer.step()
    assert_same(ours, theirs)


def test_counters_on_devices_come_to_the_host(places: Places, careful: list[int]) -> None:  # noqa: F811
    ours, theirs = pair(places, 0)
    for optimizer in (ours, theirs):
        give_grads(optimizer, 0)
        optimizer.step()
    steps = [state["step"] for state in ours.state.values()]
    places.counters = set(map(id, steps))
    ours._memo.attempts = None  # as after load_state_dict
    for t in range(1, 4):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            optimizer.step()
    assert all(state["step"] is not step for state, step in zip(ours.state.values(), steps, strict=True))
    assert {step.item() for step in steps} == {1.0}
    assert_same(ours, theirs)
    assert len(careful) == 3


@pytest.mark.parametrize("ordinals", [(0,), (0, None)])
def test_a_captured_graph_is_refused(places: Places, ordinals: tuple[int | None, ...]) -> None:
    ours, _ = pair(places, *ordinals)
    for t in range(3):
        give_grads(ours, t)
        places.capturing = t != 1
        before = snapshot(ours)
        if places.capturing:
            with pytest.raises(RuntimeError, match="a CUDA graph cannot capture this step"):
                ours.step()
            assert_same_snapshot(snapshot(ours), before)
        else:
            ours.step()


@pytest.mark.parametrize(("backend", "ordinals"), [("numpy", (None, 0)), ("cuda", (0, None))])
def test_a_backend_that_was_asked_for_steps_its_own_tensors_only(
    places: Places, backend: str, ordinals: tuple[int | None, ...]
) -> None:
    ours, theirs = pair(places, *ordinals)
    ours.backend = backend
    give_grads(ours, 0)
    before = [param.detach().clone() for param in members(ours)]
    with pytest.raises(RuntimeError, match=rf"parameter 1 is on the device .*backend '{backend}' steps nothing"):
        ours.step()
    for param, old in zip(members(ours), before, strict=True):
        assert_same_bits(param, old)
    assert not ours.state
    ours.backend = "auto"
    for t in range(3):
        for optimizer in (ours, theirs):
            give_grads(optimizer, t)
            optimizer.step()
    assert_same(ours, theirs)


def test_the_same_tensor_twice_is_stepped_twice(places: Places) -> None:
    results = []
    for ordinal in (None, 0):
        param = params((5,))[0]
        places.on[id(param)] = ordinal
        with pytest.warns(UserWarning, match="duplicate"):
            optimizer = fastadam.torch.Adam([param, param], lr=0.1)
        for t in range(3):
            param.grad = draw((5,), seed=t)
            optimizer.step()
        results.append(param.detach())
    assert_same_bits(*results)


def test_a_device_that_torch_numbers_otherwise_is_refused(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair(places, 0)
    give_grads(ours, 0)
    monkeypatch.setattr(cuda_driver.SimulatedGpu, "device_of", lambda self, address: 1)
    with pytest.raises(RuntimeError, match="counts CUDA devices otherwise"):
        ours.step()
    assert not ours.state
