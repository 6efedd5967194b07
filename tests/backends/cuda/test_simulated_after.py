"""Averages and gradients that become zero, on CUDA devices, under Numba's simulator (see `conftest.py`)."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import cuda

import fastadam
from fastadam import backends
from fastadam.backends.cuda import launches
from fastadam.memory.arrays import address
from fastadam.memory.cuda import arrays as cuda_arrays
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import AVERAGE, IDLE, ROLES, SPAN, TAKEN
from fastadam.step.after import After, Averaging
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from tests.support.bits import assert_same_bits, random_arrays
from tests.support.plans import HYPERS, bits_of, numbers

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (0,), (37,)]
LAYOUTS = ["in place", "packed", "objects"]
DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


class Spans:
    """Numbers in a format, a span each, in two rows: one has taken no step yet."""

    def __init__(self, number_format: Any, sizes: list[int], shift: int = 0) -> None:
        self.format = number_format
        self.arrays = {
            role: [numbers(number_format, n, i, positive="sq" in role) for i, n in enumerate(sizes)]
            for role in ROLES
        }
        # The averages may begin where no vector does.
        self.arrays[AVERAGE] = [
            np.random.default_rng(i).standard_normal(n + shift).astype(number_format.compute)[shift:]
            for i, n in enumerate(sizes)
        ]
        self.steps = np.array([0, 5], np.int64)

    def plan(self, backend: str, after: After, hyper: str = "plain", idle: int = -1) -> Plan:
        spans = np.zeros(len(self.arrays["param"]), SPAN.dtype)
        for role, arrays in self.arrays.items():
            spans[role] = [address(each) for each in arrays]
        spans["size"] = [each.size for each in self.arrays["param"]]
        spans["row"] = np.arange(len(spans)) % 2
        variants = variants_of(np.full(len(spans), self.format.code), flags_of(HYPERS[hyper]))
        if idle >= 0:
            variants[idle] = variants_of([self.format.code], IDLE)[0]
            for role in ROLES[1:]:
                spans[role][idle] = 0  # where nothing is, nothing is read
        counters = counters_in(self.steps)
        plan = Plan(spans, variants, counters, counters, [backends.load(backend)], 1, True, after=after)
        plan.write_options([Coefficients(HYPERS[hyper])] * 2)
        return plan

    def bits(self) -> list[bytes]:
        return [
            bits_of(each, (self.format.compute if role == AVERAGE else self.format).name).tobytes()
            for role, arrays in self.arrays.items()
            for each in arrays
        ] + [self.steps.tobytes()]


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("hyper", ["plain", "amsgrad decoupled"])
@pytest.mark.parametrize("zeroes", [False, True])
@pytest.mark.parametrize(
    ("sizes", "shift", "idle"),
    [([41], 0, -1), ([41], 1, -1), ([17, 0, 40, 3], 0, 2), ([9, 30], 1, 1), ([24], 0, 0)],
)
def test_plans_in_every_format_have_the_bits_of_the_host(
    number_format: Any, hyper: str, zeroes: bool, sizes: list[int], shift: int, idle: int
) -> None:
    found = []
    for backend in ("cuda", "numpy"):
        spans, after = Spans(number_format, sizes, shift), After(Averaging(0.9, True))
        after.zero(zeroes)
        plan = spans.plan(backend, after, hyper, idle)
        for _ in range(2):
            assert plan.take() == TAKEN
        found.append(spans.bits())
    assert found[0] == found[1]


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
def test_gradients_that_share_memory_are_read_before_any_is_zero(number_format: Any) -> None:
    found = []
    for shared in (True, False):
        spans, after = Spans(number_format, [30, 30]), After()
        grads = spans.arrays["grad"]
        grads[1] = grads[0] if shared else grads[0].copy()
        after.zero(True)
        assert spans.plan("cuda", after).take() == TAKEN
        assert not grads[0].any()
        found.append(spans.bits())
    assert found[0] == found[1]


class Side:
    """An optimizer over copies on the device, and one over the host's arrays."""

    def __init__(self, layout: str, dtype: Any = np.float32, **settings: Any) -> None:
        arrays = random_arrays(SHAPES, dtype, 100)
        self.layout, self.dtype = layout, dtype
        self.theirs = fastadam.Adam([array.copy() for array in arrays], lr=0.1, backend="numpy", **settings)
        self.given: Any = [cuda.to_device(array) for array in arrays]
        if layout == "packed":
            self.given = fastadam.pack(arrays, device="cuda")
        elif layout == "own arrays":
            self.given = list(fastadam.pack(arrays, device="cuda").params)
        elif layout == "objects":
            self.given = [fastadam.Parameter(each) for each in self.given]
        self.ours = fastadam.Adam(self.given, lr=0.1, **settings)

    def step(self, seed: int, without: tuple[int, ...] = (), bad: int | None = None, **options: Any) -> list[Any]:
        """Step both, and return the gradients of the device."""
        grads: list[Any] = list(random_arrays(SHAPES, self.dtype, seed))
        if bad is not None:
            grads[bad].flat[0] = np.nan
        for i in without:
            grads[i] = None
        on_device: list[Any] = [None if grad is None else cuda.to_device(grad) for grad in grads]
        if self.layout == "packed" and not without:
            for view, grad in zip(self.given.grads, grads, strict=True):
                view[...] = grad
            on_device = list(self.given.grads)
            self.ours.step(None, **options)
        elif self.layout == "objects":
            for param, grad in zip(self.given, on_device, strict=True):
                param.grad = grad
            self.ours.step(None, **options)
        else:
            self.ours.step(on_device, **options)
        self.theirs.step(grads, **options)
        return on_device

    def assert_same(self) -> None:
        for group in self.ours._groups:
            for member, other in zip(group.members, self.theirs._groups[0].members, strict=True):
                assert_same_bits(host(member.array), other.array, member.label)
        mine, expected = self.ours.state_dict()["state"], self.theirs.state_dict()["state"]
        assert mine.keys() == expected.keys()
        for key, entry in expected.items():
            assert entry.keys() == mine[key].keys()
            for name, value in entry.items():
                assert_same_bits(np.asarray(mine[key][name]), np.asarray(value), f"{name} of {key}")
        assert len(self.ours.ema) == len(self.theirs.ema)
        for key, value in self.theirs.ema.items():
            assert_same_bits(host(self.ours.ema[key]), value, f"average of {key}")


def host(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else array.copy_to_host()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("warms_up", [False, True])
def test_averages_have_the_bits_of_the_host(layout: str, dtype: Any, warms_up: bool) -> None:
    side = Side(layout, dtype, ema_decay=0.9, ema_warmup=warms_up, max_grad_norm=3.0)
    for seed, without in enumerate([(1,), (), (0, 4), (0, 1, 2, 3, 4), ()]):
        side.step(seed, without)
        side.assert_same()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_switched_on_and_off_in_mid_training(layout: str) -> None:
    side = Side(layout)
    side.step(0)
    for decay in (0.75, 0.5, None, 0.25):
        side.ours.ema_decay = side.theirs.ema_decay = decay
        side.assert_same()
        side.step(1, (2,))
        side.assert_same()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [8, 24, 1 << 26])
def test_they_change_places_with_the_parameters(monkeypatch: pytest.MonkeyPatch, layout: str, piece: int) -> None:
    monkeypatch.setattr(cuda_arrays, "PIECE", piece)
    side = Side(layout, np.float64, ema_decay=0.5)
    for seed in range(3):
        side.step(seed)

    class BodyError(Exception):
        pass

    def look() -> None:
        for member, other in zip(side.ours._groups[0].members, side.theirs._groups[0].members, strict=True):
            assert_same_bits(host(member.array), other.array, member.label)

    with side.ours.averaged(), side.theirs.averaged():
        look()
        with pytest.raises(RuntimeError, match="step was called within a block"):
            side.ours.step([None] * len(SHAPES))
    with pytest.raises(BodyError), side.ours.averaged():
        raise BodyError
    block = side.ours.averaged()
    block.__enter__()
    del block
    side.assert_same()
    side.step(4)
    side.assert_same()


def test_a_device_without_room_for_the_exchange_keeps_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadam.memory.cuda.driver import SimulatedGpu

    side = Side("in place", ema_decay=0.5)
    for seed in range(2):
        side.step(seed)

    def full(*_: Any) -> Any:
        raise MemoryError("the memory of CUDA device 0 is exhausted")

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedGpu, "reserve", full)
        with pytest.raises(MemoryError, match="exhausted"), side.ours.averaged():
            pass
    side.assert_same()
    side.step(3)
    side.assert_same()


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "state dict", "file"])
@pytest.mark.parametrize("layout", ["own arrays", "packed"])
def test_copies_and_files_carry_them(layout: str, how: str, tmp_path: Path) -> None:
    side = Side(layout, ema_decay=0.8, ema_warmup=True)
    side.step(0, (0,))
    side.step(1, (1,))
    if how in ("state dict", "file"):
        fresh = Side("in place", ema_decay=0.8, ema_warmup=True)
        if how == "file":
            pytest.importorskip("safetensors")
            fastadam.save(tmp_path / "run.safetensors", side.ours)
            fastadam.load(tmp_path / "run.safetensors", fresh.ours)
        else:
            for mine, other in zip(fresh.given, side.theirs._groups[0].members, strict=True):
                mine.copy_to_device(other.array)
            fresh.ours.load_state_dict(side.ours.state_dict())
        side.ours, side.given, side.layout = fresh.ours, fresh.given, "in place"
    elif how == "copy":
        side.ours = copy.copy(side.ours)
    else:
        side.ours = copy.deepcopy(side.ours) if how == "deepcopy" else pickle.loads(pickle.dumps(side.ours))
        side.layout = "in place"
    assert (side.ours.ema_decay, side.ours.ema_warmup) == (0.8, True)
    side.assert_same()
    side.step(2, (3,))
    side.assert_same()


def test_what_a_saved_state_lacks_begins_as_the_parameters() -> None:
    side, plain = Side("in place", ema_decay=0.5), Side("in place")
    side.step(0)
    plain.step(1)
    for optimizer in (side.ours, side.theirs):
        optimizer.load_state_dict(plain.theirs.state_dict())
    side.assert_same()
    with pytest.raises(ValueError, match="set ema_decay to a number"):
        plain.ours.load_state_dict(side.ours.state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_gradients_become_zero_and_the_step_is_the_same(layout: str, dtype: Any) -> None:
    side = Side(layout, dtype, max_grad_norm=1.0, ema_decay=0.9)
    for seed, without in enumerate([(), (), (1, 3), ()]):
        grads = side.step(seed, without, zero_grad=seed != 1)
        assert any(host(grad).any() for grad in grads if grad is not None) == (seed == 1), "for that step alone"
        side.assert_same()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("asked", ["skip_nonfinite", "error_if_nonfinite"])
def test_what_is_not_finite_becomes_zero_where_it_is_skipped_and_stays_where_it_is_refused(
    layout: str, asked: str
) -> None:
    side = Side(layout, **{asked: True, "ema_decay": 0.5})  # type: ignore[arg-type]
    side.step(0)
    if asked == "skip_nonfinite":
        grads = side.step(1, bad=1, zero_grad=True)
        assert side.ours.skipped_steps == 1
        assert not any(host(grad).any() for grad in grads)
    else:
        with pytest.raises(RuntimeError, match="not finite"):
            side.step(1, bad=1, zero_grad=True)
        if layout == "packed":
            assert np.isnan(host(side.given.grad)).any()
    side.assert_same()


class ReadOnly:
    """An array of a library that calls it read-only."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._array.__array_interface__, "data": (address(self._array), True), "version": 3}


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_gradient_that_is_read_only_is_refused_before_anything_is_written(seen_before: bool) -> None:
    array, grad = cuda.to_device(np.ones(3)), ReadOnly(np.ones(3))
    optimizer = fastadam.Adam(array, ema_decay=0.5)
    if seen_before:
        optimizer.step(grad)  # only read
    before, state = host(array), optimizer.state_dict()["state"]
    with pytest.raises(ValueError, match="the gradient of parameter 0 is read-only, and zero_grad=True fills it"):
        optimizer.step(grad, zero_grad=True)
    assert_same_bits(host(array), before)
    assert str(optimizer.state_dict()["state"]) == str(state)
    assert grad._array.all()
    optimizer.step(grad)


def test_averages_of_float16_are_refused_by_name() -> None:
    arrays = [cuda.to_device(np.ones(3, np.float32)), cuda.to_device(np.ones(3, np.float16))]
    message = "parameter 1 is float16, which is computed with in float32"
    with pytest.raises(TypeError, match=message):
        fastadam.Adam(arrays, ema_decay=0.5)
    optimizer = fastadam.Adam(arrays)
    with pytest.raises(TypeError, match=message):
        optimizer.ema_decay = 0.5
    assert (optimizer.ema_decay, len(optimizer.ema)) == (None, 0)
    grads = [cuda.to_device(np.ones(3, np.float32)), cuda.to_device(np.ones(3, np.float16))]
    optimizer.step(grads, zero_grad=True)
    assert not any(host(grad).any() for grad in grads)


@pytest.mark.parametrize("without", [(), (0,), (1,), (0, 1)])
def test_the_host_and_the_device_in_one_optimizer(without: tuple[int, ...]) -> None:
    arrays = random_arrays([(7,), (9,)], np.float32, 0)
    ours = fastadam.Adam([arrays[0].copy(), cuda.to_device(arrays[1])], lr=0.1, ema_decay=0.5)
    theirs = fastadam.Adam([array.copy() for array in arrays], lr=0.1, ema_decay=0.5)
    for seed in range(3):
        grads: list[Any] = list(random_arrays([(7,), (9,)], np.float32, seed))
        on_device = cuda.to_device(grads[1])
        given = [grads[0].copy(), on_device]
        if seed == 1:
            for i in without:
                grads[i] = given[i] = None
        ours.step(given, zero_grad=True)
        theirs.step(grads)
        assert not any(host(grad).any() for grad in given if grad is not None)
        for i, (_, member) in enumerate(zip(arrays, ours._groups[0].members, strict=True)):
            assert_same_bits(host(member.array), theirs._groups[0].members[i].array)
            assert_same_bits(host(ours.ema[i]), theirs.ema[i])
    with ours.averaged(), theirs.averaged():
        for mine, other in zip(ours._groups[0].members, theirs._groups[0].members, strict=True):
            assert_same_bits(host(mine.array), other.array)


def test_an_idle_parameter_whose_memory_was_exchanged_is_refused() -> None:
    class Moving:
        """An array of a library that can put it elsewhere."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {**self.array.__array_interface__, "version": 3}

    moving, still = Moving(np.ones(3)), cuda.to_device(np.ones(2))
    optimizer = fastadam.Adam([still, moving], ema_decay=0.5)
    for _ in range(2):
        optimizer.step([cuda.to_device(np.ones(2)), None])
    before, kept = host(still), moving.array
    moving.array = np.zeros(3)
    with pytest.raises(ValueError, match="of parameter 1 was exchanged"):
        optimizer.step([cuda.to_device(np.ones(2)), None])
    assert_same_bits(host(still), before)
    moving.array = kept
    optimizer.step([cuda.to_device(np.ones(2)), None])


def test_steps_that_ask_for_neither_use_no_kernel_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    made, kernel = [], launches.SimulatedLauncher.kernel

    def noted(self: Any, number: int, which: int) -> Any:
        made.append(which)
        return kernel(self, number, which)

    monkeypatch.setattr(launches.SimulatedLauncher, "kernel", noted)
    side = Side("in place", max_grad_norm=1.0)
    side.step(0)
    side.step(1, (0,))
    assert made
    assert not {launches.AVERAGES, launches.ZEROS} & set(made)
    side.step(2, zero_grad=True)
    assert launches.ZEROS in made
