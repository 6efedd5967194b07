"""What clipping asks of the CUDA driver and does not wait for, with a stand-in for it (see `stand_in`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.backends.cuda import launches
from fastadam.memory.cuda import driver as cuda_driver
from fastadam.memory.formats import FLOAT32
from tests.backends.cuda.stand_in import answered, driver, log
from tests.support.bits import assert_same_bits, random_arrays

SETTINGS: Any = {"max_grad_norm": 0.5}
DEVICES = ("cpu", "cuda:0", "cuda:1")


@pytest.fixture(autouse=True)
def _answered() -> Iterator[None]:
    with answered():
        yield


@pytest.mark.parametrize("layout", ["packed", "in place"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_waits_for_nothing(layout: str, dtype: Any) -> None:
    """Two launches more, of which the step's reads the result; the host asks for the norm when the user does."""
    arrays = random_arrays([(1500,), (33,), ()], dtype, 0)
    flat = fastadam.pack(arrays, device="cuda")
    grads = flat.grad if layout == "packed" else flat.grads
    ours = fastadam.Adam(flat if layout == "packed" else flat.params, lr=0.1, **SETTINGS)
    theirs = fastadam.Adam([array.copy() for array in arrays], lr=0.1, **SETTINGS)
    driver.stand_in_set_pending(1)  # nothing is done before it is waited for
    for seed in (1, 2, 3, 4):
        drawn = random_arrays([(1500,), (33,), ()], dtype, seed)
        for view, grad in zip(flat.grads, drawn, strict=True):
            view[...] = grad
        theirs.step(drawn, 2.0)
        log()
        ours.step(grads, 2.0)
        calls = [line.split()[0] for line in log() if not line.startswith("alloc")]
        assert not {"finish", "wait", "synchronize"} & set(calls)
        assert calls.count("launch") == 3
        assert ours.grad_norm == theirs.grad_norm
        assert [line.split()[0] for line in log()] == ["copy", "finish"]
        assert ours.grad_norm == theirs.grad_norm
        assert not log()
    driver.stand_in_set_pending(0)
    for mine, other in zip(flat.params, theirs._groups[0].members, strict=True):
        assert_same_bits(mine.copy_to_host(), other.array)


def test_a_clipped_packed_step_copies_nothing() -> None:
    flat = fastadam.pack([np.ones(1000, np.float32) for _ in range(3)], device="cuda")
    optimizer = fastadam.Adam(flat, **SETTINGS)
    for _ in range(2):  # the table of gradients goes along until each of the two slots has it
        optimizer.step()
    log()
    optimizer.step()
    squares, recorded, root, launched = log()
    assert squares == root == "launch 1 in 1 on 0"
    assert launched.startswith("launch ")
    assert recorded.startswith("record ")


@pytest.mark.parametrize("settings", [{"skip_nonfinite": True}, {"error_if_nonfinite": True}])
def test_whether_a_step_is_taken_is_waited_for(settings: dict[str, bool]) -> None:
    flat = fastadam.pack([np.ones(1000, np.float32)], device="cuda")
    optimizer = fastadam.Adam(flat, **settings)
    for _ in range(2):
        optimizer.step()
    log()
    optimizer.step()
    assert [line.split()[0] for line in log()] == ["launch", "record", "copy", "finish", "launch"]
    flat.grad[3:4] = np.array([np.nan], np.float32)
    log()
    if "skip_nonfinite" in settings:
        optimizer.step()
        assert optimizer.skipped_steps == 1
    else:
        with pytest.raises(RuntimeError, match="not finite"):
            optimizer.step()
    assert [line.split()[0] for line in log()].count("launch") == 1
    assert optimizer.state[0]["step"] == 3


def test_one_norm_of_two_devices_and_the_host() -> None:
    arrays = random_arrays([(5,), (6,), (7,)], np.float32, 0)
    flats: list[Any] = [
        fastadam.pack([array], device=device) for array, device in zip(arrays, DEVICES, strict=True)
    ]
    ours = fastadam.Adam([{"params": flat} for flat in flats], lr=0.1, **SETTINGS)
    theirs = fastadam.Adam([{"params": [array]} for array in arrays], lr=0.1, **SETTINGS)
    for seed in (1, 2):
        grads = random_arrays([(5,), (6,), (7,)], np.float32, seed)
        for flat, grad in zip(flats, grads, strict=True):
            flat.grad[...] = grad
        ours.step()
        theirs.step(grads)
        assert ours.grad_norm == theirs.grad_norm
    for flat, array in zip(flats, arrays, strict=True):
        found = flat.param if isinstance(flat.param, np.ndarray) else flat.param.copy_to_host()
        assert_same_bits(found, array)


@pytest.mark.parametrize(
    ("settings", "kernel"),
    [
        (SETTINGS, (FLOAT32.code, launches.SQUARES)),
        (SETTINGS, (0, launches.ROOT)),
        ({"skip_nonfinite": True}, (FLOAT32.code, launches.SQUARES)),
    ],
)
def test_a_norm_that_fails_is_an_error_and_no_step(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], kernel: tuple[int, int]
) -> None:
    flat = fastadam.pack([np.ones(3, np.float32) for _ in range(2)], device="cuda")
    optimizer = fastadam.Adam(flat, **settings)
    optimizer.step()
    call, broken = launches.Launcher.launch_call, launches.launcher(cuda_driver.gpu(0)).kernel(*kernel)

    def failing(self: Any, kernel: Any, *rest: Any) -> Any:
        return (lambda: (700,)) if kernel == broken else call(self, kernel, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(launches.Launcher, "launch_call", failing)
        with pytest.raises(cuda_driver.CudaError, match="ILLEGAL_ADDRESS"):
            optimizer.step()
    assert optimizer.state[0]["step"] == 1
    optimizer.step()
    assert optimizer.state[0]["step"] == 2
