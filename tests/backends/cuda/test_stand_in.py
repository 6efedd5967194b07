"""What the CUDA backend asks of the driver, with `stand_in_driver.c` in the driver's place (see `stand_in`)."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numba import cuda as numba_cuda

import fastadam
from fastadam.backends.cuda import kernels as cuda_kernels
from fastadam.backends.cuda import launches, staging
from fastadam.memory.cuda import available
from fastadam.memory.cuda import driver as cuda_driver
from fastadam.memory.cuda.arrays import CudaArray
from fastadam.memory.devices import named
from tests.backends.cuda.stand_in import answered, driver, log
from tests.support.bits import assert_same_bits, random_arrays


@pytest.fixture(autouse=True)
def _answered() -> Iterator[None]:
    with answered():
        yield


def test_the_stand_in_is_what_answers() -> None:
    assert not cuda_kernels.SIMULATED
    assert fastadam.available_backends()["cuda"] == "available"
    assert cuda_driver.gpu(0).compute_capability == (9, 0)


SHAPES: list[tuple[int, ...]] = [(70, 4), (), (0,), (33,)]


@pytest.mark.parametrize("layout", ["packed", "in place"])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_bits_are_those_of_the_host(layout: str, dtype: Any) -> None:
    arrays = random_arrays(SHAPES, dtype, 0)
    flat = fastadam.pack(arrays, device="cuda")
    params = flat if layout == "packed" else [numba_cuda.to_device(array) for array in arrays]
    ours, theirs = (fastadam.Adam(each, lr=0.1, weight_decay=0.1) for each in (params, [a.copy() for a in arrays]))
    for seed in (1, 2, 3):
        grads: list[Any] = list(random_arrays(SHAPES, dtype, seed))
        if layout == "packed":
            for view, grad in zip(flat.grads, grads, strict=True):
                view[...] = grad
            ours.step()
        else:
            ours.step([numba_cuda.to_device(grad) for grad in grads])
        theirs.step(grads)
    for mine, other in zip(ours._groups[0].members, theirs._groups[0].members, strict=True):
        assert_same_bits(mine.array.copy_to_host(), other.array)  # type: ignore[attr-defined]
    again = copy.deepcopy(ours.state_dict())
    theirs.load_state_dict(again)


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "settings"),
    [(np.float32, "int8", {}), (np.complex128, "bfloat16", {"max_grad_norm": 0.5, "ema_decay": 0.9})],
)
def test_bits_of_compact_state(dtype: Any, state_dtype: str, settings: dict[str, Any]) -> None:
    arrays = random_arrays(SHAPES, dtype, 0)
    flat = fastadam.pack(arrays, device="cuda")
    options = {"lr": 0.1, "weight_decay": 0.1, "state_dtype": state_dtype, "seed": 7, **settings}
    ours, theirs = (fastadam.Adam(each, **options) for each in (flat, [a.copy() for a in arrays]))
    for seed in (1, 2, 3):
        grads: list[Any] = list(random_arrays(SHAPES, dtype, seed))
        for view, grad in zip(flat.grads, grads, strict=True):
            view[...] = grad
        log()
        ours.step()
        theirs.step(grads)
    if not settings:  # coefficients, what random bits come from, and all parameters in one launch
        assert log()[:3] == ["copy 44 in 1", "copy 8 in 1", "launch 3 in 1 on 0"]
    for mine, other in zip(ours._groups[0].members, theirs._groups[0].members, strict=True):
        assert_same_bits(mine.array.copy_to_host(), other.array)  # type: ignore[attr-defined]
    for key, entry in theirs.state_dict()["state"].items():
        for name, value in entry.items():
            assert_same_bits(np.asarray(ours.state_dict()["state"][key][name]), np.asarray(value), name)


def test_a_packed_step_is_one_launch_and_nothing_else() -> None:
    flat = fastadam.pack([np.ones(1000, np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat)
    optimizer.step()
    log()
    optimizer.step()
    assert log() == ["launch 1 in 1 on 0"]


def test_separate_arrays_are_one_copy_and_one_launch() -> None:
    flat = fastadam.pack([np.ones(3, np.float32) for _ in range(50)], device="cuda")
    optimizer = fastadam.Adam(flat.params)
    for _ in range(2):  # the table goes along until each of the two slots has it
        optimizer.step(flat.grads)
    log()
    optimizer.step(flat.grads)
    copied, launched, recorded = log()
    assert copied == "copy 44 in 1"  # eleven coefficients
    assert launched == "launch 50 in 1 on 0"
    assert recorded.startswith("record ")


def test_memory_under_way_is_not_written_to() -> None:
    """While no event has passed, every step takes memory of its own; in the end, the host waits for the oldest."""
    flat = fastadam.pack([np.ones(3, np.float32) for _ in range(2)], device="cuda")
    optimizer = fastadam.Adam(flat.params)
    driver.stand_in_set_pending(1)
    marks = []
    for _ in range(staging.MOST_UNDER_WAY):
        optimizer.step(flat.grads)
        marks += [line.split()[1] for line in log() if line.startswith("record ")]
    assert len(set(marks)) == len(marks) == staging.MOST_UNDER_WAY
    optimizer.step(flat.grads)
    assert f"wait {marks[0]}" in log()
    driver.stand_in_set_memory(ctypes.c_size_t(0))  # and it does so too where memory is short
    optimizer.step(flat.grads)
    assert f"wait {marks[1]}" in log()


def test_streams_wait_for_each_other_on_the_device() -> None:
    class Produced:
        def __init__(self, array: CudaArray) -> None:
            self.array = array

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {**self.array.__cuda_array_interface__, "stream": 77}

    flat = fastadam.pack([np.ones(3, np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat.params[0])
    optimizer.step(Produced(flat.grads[0]))
    calls = [line.split()[0] for line in log() if not line.startswith("alloc")]
    assert calls[-5:] == ["record", "stall", "launch", "record", "stall"]
    optimizer.step(Produced(flat.grads[0]))
    first, second, launched, third, fourth = (line.split() for line in log())
    assert (first[0], first[3], second[:2]) == ("record", "77", ["stall", "1"])
    assert first[1] == second[3]
    assert launched[:1] == ["launch"]
    assert (third[0], third[3], fourth[:2]) == ("record", "1", ["stall", "77"])
    assert third[1] == fourth[3]


def test_a_stream_can_be_given() -> None:
    """As the PyTorch face does: the pointer of the current stream, 0 for the default one."""
    flat = fastadam.pack([np.ones(3, np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat)
    backend: Any = optimizer._choice.in_use[named("cuda")]
    for stream, expected in ((1234, "1234"), (0, "1"), (1, "1")):
        backend.use_stream(stream)
        optimizer.step()
        assert log()[-1] == f"launch 1 in {expected} on 0"


def test_out_of_memory_is_a_memory_error_and_changes_nothing() -> None:
    optimizer = fastadam.Adam(fastadam.pack([np.ones(100)], device="cuda"))
    optimizer.step()
    before = optimizer.state_dict()["state"][0]
    driver.stand_in_set_memory(ctypes.c_size_t(100))
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(MemoryError, match="CUDA device 0"):
        optimizer.step()
    with pytest.raises(MemoryError, match="CUDA device 0"):
        fastadam.pack([np.ones(100)], device="cuda")
    optimizer.param_groups[0]["amsgrad"] = False
    after = optimizer.state_dict()["state"][0]
    assert before.keys() == after.keys()
    assert before["step"] == after["step"]
    assert_same_bits(after["exp_avg"], before["exp_avg"])


def test_two_devices_in_one_optimizer() -> None:
    arrays = random_arrays([(5,), (6,)], np.float32, 0)
    flats = [fastadam.pack([array], device=f"cuda:{i}") for i, array in enumerate(arrays)]
    ours = fastadam.Adam([{"params": flat} for flat in flats])
    theirs = fastadam.Adam([{"params": [array]} for array in arrays])
    log()
    for seed in (1, 2):
        grads = random_arrays([(5,), (6,)], np.float32, seed)
        for flat, grad in zip(flats, grads, strict=True):
            flat.grad[...] = grad
        ours.step()
        assert sorted(line for line in log() if line.startswith("launch")) == [
            "launch 1 in 1 on 0",
            "launch 1 in 1 on 1",
        ]
        theirs.step(grads)
    for flat, array in zip(flats, arrays, strict=True):
        assert_same_bits(flat.param.copy_to_host(), array)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="on CUDA device 1, its parameter on device 0"):
        ours.step([flats[1].param[:5], flats[1].grad])
    with pytest.raises(ValueError, match="there is no CUDA device 2"):
        fastadam.pack(arrays, device="cuda:2")


def test_memory_of_the_host_is_refused() -> None:
    class OnHost:
        __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (64, False), "version": 3}  # noqa: RUF012

    def of_the_host(address: int) -> int:
        raise cuda_driver.CudaError("memory of another kind")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_driver.gpu(0), "device_of", of_the_host)
        with pytest.raises(ValueError, match="not in the memory of a CUDA device"):
            fastadam.Adam([OnHost()])


@pytest.mark.parametrize(
    ("prepare", "match"),
    [
        (lambda: driver.stand_in_set_version(12080), r"driver is for CUDA 12.8, .* CUDA 13; update"),
        (lambda: driver.stand_in_set_devices(0), "finds no device"),
    ],
)
def test_why_it_is_missing(prepare: Any, match: str) -> None:
    try:
        prepare()
        available.why_missing.cache_clear()
        with pytest.raises(fastadam.BackendUnavailableError, match=match):
            fastadam.pack([np.ones(1)], device="cuda")
    finally:
        driver.stand_in_set_version(13000)
        driver.stand_in_set_devices(2)
        available.why_missing.cache_clear()


def test_a_launch_that_fails_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("packed", "in place"):
        flat = fastadam.pack([np.ones(3, np.float32) for _ in range(2)], device="cuda")
        optimizer = fastadam.Adam(flat if layout == "packed" else flat.params)
        grads = None if layout == "packed" else flat.grads
        optimizer.step(grads)
        with monkeypatch.context() as patch:
            patch.setattr(launches.Launcher, "launch_call", lambda *_: lambda: (700,))
            with pytest.raises(cuda_driver.CudaError, match="ILLEGAL_ADDRESS; an array that was stepped"):
                optimizer.step(grads)
        assert optimizer.state[0]["step"] == 1
        optimizer.step(grads)
        assert optimizer.state[0]["step"] == 2
