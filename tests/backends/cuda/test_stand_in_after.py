"""What averages and zeroed gradients ask of the CUDA driver, with a stand-in for it (see `stand_in`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.backends.cuda import launches
from fastadam.memory.cuda import driver as cuda_driver
from fastadam.memory.cuda.arrays import CudaArray
from tests import interrupts
from tests.backends.cuda.stand_in import answered, driver, log
from tests.support.bits import assert_same_bits, random_arrays

SHAPES: list[tuple[int, ...]] = [(1500,), (33,), ()]


@pytest.fixture(autouse=True)
def _answered() -> Iterator[None]:
    with answered():
        yield


def calls() -> list[str]:
    return [line.split()[0] for line in log() if not line.startswith("alloc")]


@pytest.mark.parametrize("layout", ["packed", "in place"])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_a_step_with_all_of_it_waits_for_nothing(layout: str, dtype: Any) -> None:
    arrays = random_arrays(SHAPES, dtype, 0)
    settings: Any = {"lr": 0.1, "ema_decay": 0.9, "max_grad_norm": 0.5}
    flat = fastadam.pack(arrays, device="cuda")
    ours = fastadam.Adam(flat if layout == "packed" else flat.params, **settings)
    theirs = fastadam.Adam([array.copy() for array in arrays], **settings)
    for seed in range(4):
        drawn: list[Any] = list(random_arrays(SHAPES, dtype, seed))
        for view, grad in zip(flat.grads, drawn, strict=True):
            view[...] = grad
        given: Any = flat.grad if layout == "packed" else list(flat.grads)
        idle = layout == "in place" and seed in (0, 2)  # the first of them makes rows, and all plans anew
        if idle:
            given[1] = drawn[1] = None
        theirs.step(drawn)
        log()
        ours.step(given, zero_grad=True)
        found = calls()
        driver.stand_in_set_pending(1)  # nothing is done before it is waited for
        assert not {"finish", "wait", "synchronize"} & set(found) or seed == 0
        assert found.count("launch") == 4 + idle  # squares, root, step, those that are idle, zeros
    driver.stand_in_set_pending(0)
    assert not flat.grad.copy_to_host().any()  # type: ignore[attr-defined]
    for i, (mine, other) in enumerate(zip(flat.params, theirs._groups[0].members, strict=True)):
        assert_same_bits(mine.copy_to_host(), other.array)
        average: Any = ours.ema[i]
        assert isinstance(average, CudaArray)
        assert_same_bits(average.copy_to_host(), theirs.ema[i])


def test_a_step_without_is_one_launch_and_nothing_else() -> None:
    flat = fastadam.pack([np.ones(1000, np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat, ema_decay=0.5)
    optimizer.step(zero_grad=True)
    optimizer.ema_decay = None
    for _ in range(2):
        optimizer.step()
    log()
    optimizer.step()
    assert log() == ["launch 1 in 1 on 0"]
    for _ in range(2):  # the table of gradients goes along until each of the two slots has it
        optimizer.step(zero_grad=True)
    log()
    optimizer.step(zero_grad=True)
    assert calls() == ["launch", "launch", "record"]


def test_averages_change_places_when_all_is_done_that_is_under_way() -> None:
    flat = fastadam.pack([np.arange(6, dtype=np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat, lr=0.1, ema_decay=0.5)
    for _ in range(2):
        flat.grad[...] = np.ones(6, np.float32)
        optimizer.step()
    param, average = flat.param.copy_to_host(), optimizer.ema[flat].copy_to_host()  # type: ignore[attr-defined]
    log()
    block = optimizer.averaged()
    block.__enter__()
    assert calls() == ["synchronize", "copy", "copy", "copy", "finish"]
    assert_same_bits(flat.param.copy_to_host(), average)
    log()
    block.__exit__(None, None, None)
    assert calls() == ["synchronize", "copy", "copy", "copy", "finish"]
    assert_same_bits(flat.param.copy_to_host(), param)


# Where it arrives in a finalizer of Numba's, Python prints and drops it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_finds_them_changed_back() -> None:
    flat = fastadam.pack([np.arange(6, dtype=np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat, lr=0.1, ema_decay=0.5)
    for _ in range(2):
        flat.grad[...] = np.ones(6, np.float32)
        optimizer.step()
    average: Any = optimizer.ema[flat]
    before = [flat.param.copy_to_host(), average.copy_to_host()]  # type: ignore[attr-defined]
    assert not np.array_equal(*before)

    def evaluate() -> None:
        with optimizer.averaged():
            assert flat.param.copy_to_host().tobytes() == before[1].tobytes()  # type: ignore[attr-defined]

    evaluate()
    events, met = interrupts.events_of(evaluate), 0
    for event in range(1, events + 1, max(1, events // 80)):
        try:
            interrupts.events_of(evaluate, event)
        except KeyboardInterrupt:
            met += 1
        assert_same_bits(flat.param.copy_to_host(), before[0])  # type: ignore[attr-defined]
        assert_same_bits(average.copy_to_host(), before[1])
    assert met > 40
    optimizer.step()


@pytest.mark.parametrize("which", [launches.AVERAGES, launches.ZEROS])
def test_a_kernel_that_fails_is_an_error_and_no_step(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    flat = fastadam.pack([np.ones(3, np.float32) for _ in range(2)], device="cuda")
    optimizer = fastadam.Adam(flat, ema_decay=0.5)
    optimizer.step(zero_grad=True)
    call, broken = launches.Launcher.launch_call, launches.launcher(cuda_driver.gpu(0)).kernel(0, which)

    def failing(self: Any, kernel: Any, *rest: Any) -> Any:
        return (lambda: (700,)) if kernel == broken else call(self, kernel, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(launches.Launcher, "launch_call", failing)
        with pytest.raises(cuda_driver.CudaError, match="ILLEGAL_ADDRESS"):
            optimizer.step(zero_grad=True)
    assert optimizer.state[0]["step"] == 1
    optimizer.step()
    assert optimizer.state[0]["step"] == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_device_without_room_for_averages_keeps_all_as_it_was(dtype: Any) -> None:
    import ctypes

    flat = fastadam.pack([np.ones(1000, dtype)], device="cuda")
    optimizer = fastadam.Adam(flat)
    optimizer.step()
    driver.stand_in_set_memory(ctypes.c_size_t(100))
    with pytest.raises(MemoryError, match="the memory of CUDA device 0 is exhausted"):
        optimizer.ema_decay = 0.5
    driver.stand_in_set_memory(ctypes.c_size_t(1 << 40))
    assert (optimizer.ema_decay, len(optimizer.ema)) == (None, 0)
    optimizer.step()
    optimizer.ema_decay = 0.5
    optimizer.step()
    assert len(optimizer.ema) == 1
