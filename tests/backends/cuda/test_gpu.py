"""On a GPU: bits, streams, stale pointers and memory. Run with ``python -m pytest -m gpu``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import backends
from tests.conftest import AVAILABLE, STATES
from tests.support.bits import assert_same_bits, random_arrays
from tests.support.compact_memory import COMBINATIONS, Memory
from tests.support.plans import HYPERS, bits_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(STATES["cuda"] != "available", reason=f"cuda: {STATES['cuda']}"),
    pytest.mark.skipif(os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", reason="this is the simulator"),
]

SIZE = 10_000_000
ROUNDS = 50
RAGGED = [(1,), (SIZE // 2 + 3,), (7, 11), (0,), (), (SIZE // 2 - 1,)]


def to_device(arrays: list[np.ndarray]) -> list[Any]:
    from numba import cuda

    return [cuda.to_device(array) for array in arrays]


@pytest.mark.parametrize("layout", ["packed", "in place", "misaligned"])
@pytest.mark.parametrize("name", HYPERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_bits_of_ten_million_over_fifty_steps(dtype: Any, name: str, layout: str) -> None:
    shapes = [(SIZE,)] if layout == "packed" else RAGGED
    arrays = random_arrays(shapes, dtype, 0)
    options = HYPERS[name]._asdict()
    flat = fastadam.pack([np.zeros(1, dtype), *arrays], device="cuda")
    params: Any = flat if layout == "packed" else to_device(arrays)
    if layout == "misaligned":
        params = flat.params[1:]
    ours = fastadam.Adam(params, **options)
    theirs = fastadam.Adam([np.zeros(1, dtype), *arrays] if layout == "packed" else arrays, **options)
    grads = fastadam.pack([np.zeros(1, dtype), *arrays], device="cuda")
    for seed in range(ROUNDS):
        found = random_arrays(shapes, dtype, 100 + seed % 5)
        if layout == "packed":
            found = [np.zeros(1, dtype), *found]
            for view, grad in zip(flat.grads, found, strict=True):
                view[...] = grad
            ours.step()
        else:
            for view, grad in zip(grads.params[1:], found, strict=True):
                view[...] = grad
            ours.step(grads.params[1:])
        theirs.step(found)
    for mine, other in zip(ours._groups[0].members, theirs._groups[0].members, strict=True):
        value: Any = mine.array if layout != "in place" else mine.owner
        assert_same_bits(value.copy_to_host(), other.array)
    mine_saved, saved = ours.state_dict()["state"], theirs.state_dict()["state"]
    for key, entry in saved.items():
        for moment, value in entry.items():
            assert_same_bits(np.asarray(mine_saved[key][moment]), np.asarray(value), f"{moment} of {key}")


@pytest.mark.parametrize("number_format", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", HYPERS)
@pytest.mark.parametrize("split", [False, True])
def test_bits_of_halves(number_format: str, name: str, split: bool) -> None:
    """Plans over device memory, as the PyTorch face makes them."""
    from fastadam.memory.cuda.arrays import zeros
    from fastadam.memory.formats import FORMATS
    from fastadam.memory.structs import ROLES, SPAN
    from fastadam.step.coefficients import Coefficients
    from fastadam.step.counters import counters_in
    from fastadam.step.plan import Plan
    from fastadam.step.variants import flags_of, variants_of
    from tests.support.plans import numbers

    each = next(each for each in FORMATS if each.name == number_format)
    hyper = HYPERS[name]
    sizes = [SIZE // 2 + 1, 3, SIZE // 2 - 4] if split else [SIZE]
    hosts, devices = [], []
    tables = [np.zeros(len(sizes), SPAN.dtype) for _ in range(2)]
    for i, size in enumerate(sizes):
        for j, field in enumerate(ROLES):
            host = numbers(each, size, 10 * i + j, positive=j > 2)
            device = zeros(size, np.dtype(np.float16), 0)
            device[...] = host.view(np.float16)
            tables[0][i][field], tables[1][i][field] = host.__array_interface__["data"][0], device.address
            hosts.append(host)
            devices.append(device)
        for table in tables:
            table[i]["size"] = size
    variants = variants_of(np.full(len(sizes), each.code), flags_of(hyper))
    places = (backends.load(AVAILABLE[0]), backends.load("cuda").on_device(0))
    for table, place in zip(tables, places, strict=True):
        steps = np.zeros(1, np.int64)
        plan = Plan(table, variants, counters_in(steps), counters_in(steps), [place], 1, False)
        plan.write_options([Coefficients(hyper)])
        for _ in range(ROUNDS):
            plan.take()
    for host, device in zip(hosts, devices, strict=True):
        np.testing.assert_array_equal(
            bits_of(device.copy_to_host().view(each.stored), number_format), bits_of(host, number_format)
        )


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("name", ["plain", "amsgrad decoupled"])
def test_bits_of_compact_formats(combination: str, name: str) -> None:
    """Plans over copies in device memory of what plans over the host's step."""
    from fastadam.memory.cuda.arrays import zeros
    from fastadam.memory.structs import MASTER, ROLES, SCALES
    from fastadam.step.coefficients import Coefficients
    from fastadam.step.counters import counters_in
    from fastadam.step.plan import Plan
    from fastadam.step.variants import flags_of, variants_of

    hyper = HYPERS[name]._replace(seed=11)
    memory = Memory(combination, [SIZE // 10, 1, 0, 63, 65, SIZE // 10 - 5])
    tables, copies = [memory.spans(), memory.spans()], []
    for span, kept in zip(tables[1], memory.params, strict=True):
        for role, each in zip(ROLES, kept, strict=True):
            places = {role: each.stored, MASTER if role == "param" else SCALES.get(role): each.beside}
            for field, host in places.items():
                if field is not None and host is not None:
                    device = zeros(host.size, host.dtype, 0)
                    device[...] = host
                    span[field] = device.address
                    copies.append((device, host))
    codes = np.repeat([[each.code] for each in memory.formats], len(memory.params), axis=1)
    variants = variants_of(codes, flags_of(hyper))
    for table, place in zip(tables, (backends.load("c"), backends.load("cuda").on_device(0)), strict=True):
        steps = np.zeros(1, np.int64)
        counters = counters_in(steps)
        plan = Plan(table, variants, counters, counters, [place], 1, False)
        plan.write_options([Coefficients(hyper)])
        for _ in range(5):
            plan.take()
    for device, host in copies:
        assert_same_bits(device.copy_to_host(), host)


@pytest.mark.parametrize("layout", ["packed", "in place"])
@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_bits_of_compact_state(dtype: Any, state_dtype: str, layout: str) -> None:
    arrays = random_arrays(RAGGED, dtype, 0)
    flat = fastadam.pack(arrays, device="cuda")
    settings: Any = {"lr": 0.1, "weight_decay": 0.1, "state_dtype": state_dtype, "max_grad_norm": 1.0}
    settings |= {"skip_nonfinite": True, "ema_decay": 0.9, "seed": 3}
    ours = fastadam.Adam(flat if layout == "packed" else flat.params, **settings)
    theirs = fastadam.Adam(arrays, **settings)
    for seed in range(5):
        grads: Any = list(random_arrays(RAGGED, dtype, 100 + seed))
        if seed == 1:
            grads[1][7] = np.inf
        for view, grad in zip(flat.grads, grads, strict=True):
            view[...] = grad
        given: Any = flat.grad if layout == "packed" else list(flat.grads)
        if seed == 2 and layout == "in place":
            given[1] = grads[1] = None
        ours.step(given)
        theirs.step(grads)
    assert ours.skipped_steps == 1
    for view, array in zip(flat.params, arrays, strict=True):
        assert_same_bits(view.copy_to_host(), array)
    saved = ours.state_dict()["state"]
    for key, entry in theirs.state_dict()["state"].items():
        for moment, value in entry.items():
            assert_same_bits(np.asarray(saved[key][moment]), np.asarray(value), f"{moment} of {key}")


@pytest.mark.parametrize("layout", ["packed", "in place"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_bits_of_clipped_steps(dtype: Any, layout: str) -> None:
    arrays = random_arrays(RAGGED, dtype, 0)
    flat = fastadam.pack(arrays, device="cuda")
    settings: Any = {"lr": 0.1, "max_grad_norm": 0.5}
    ours = fastadam.Adam(flat if layout == "packed" else flat.params, **settings)
    theirs = fastadam.Adam(arrays, **settings)
    for seed in range(5):
        grads = random_arrays(RAGGED, dtype, 100 + seed)
        for view, grad in zip(flat.grads, grads, strict=True):
            view[...] = grad
        ours.step(flat.grad if layout == "packed" else flat.grads, 2.0**seed)
        theirs.step(grads, 2.0**seed)
        assert np.float64(ours.grad_norm).tobytes() == np.float64(theirs.grad_norm).tobytes()
    for view, array in zip(flat.params, arrays, strict=True):
        assert_same_bits(view.copy_to_host(), array)


@pytest.mark.parametrize("layout", ["packed", "in place"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_bits_of_averages_and_zeroed_gradients(dtype: Any, layout: str) -> None:
    arrays = random_arrays(RAGGED, dtype, 0)
    flat = fastadam.pack(arrays, device="cuda")
    settings: Any = {"lr": 0.1, "ema_decay": 0.9, "ema_warmup": True}
    ours = fastadam.Adam(flat if layout == "packed" else flat.params, **settings)
    theirs = fastadam.Adam(arrays, **settings)
    for seed in range(5):
        drawn: list[Any] = list(random_arrays(RAGGED, dtype, 100 + seed))
        for view, grad in zip(flat.grads, drawn, strict=True):
            view[...] = grad
        grads: Any = flat.grad if layout == "packed" else list(flat.grads)
        if layout == "in place" and seed == 2:
            grads[1] = drawn[1] = None
        ours.step(grads, zero_grad=True)
        theirs.step(drawn)
        assert not any(each.copy_to_host().any() for i, each in enumerate(flat.grads) if drawn[i] is not None)
    averages: Any = ours.ema
    for i, (view, array) in enumerate(zip(flat.params, arrays, strict=True)):
        assert_same_bits(view.copy_to_host(), array)
        assert_same_bits(averages[i].copy_to_host(), theirs.ema[i])
    with ours.averaged(), theirs.averaged():
        for view, array in zip(flat.params, arrays, strict=True):
            assert_same_bits(view.copy_to_host(), array)
    for view, array in zip(flat.params, arrays, strict=True):
        assert_same_bits(view.copy_to_host(), array)


def test_steps_that_are_not_finite() -> None:
    flat = fastadam.pack([np.ones(SIZE, np.float32)], device="cuda")
    skipping = fastadam.Adam(flat, skip_nonfinite=True)
    flat.grad[SIZE - 1 : SIZE] = np.array([np.nan], np.float32)
    skipping.step()
    assert skipping.skipped_steps == 1
    assert (flat.param.copy_to_host() == 1).all()  # type: ignore[attr-defined]
    refusing = fastadam.Adam(flat, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="not finite"):
        refusing.step()


def test_clipping_does_not_wait_for_what_is_under_way() -> None:
    """The norm is not there when the step has returned, as the stream holds much before it."""
    cupy = pytest.importorskip("cupy")
    param, grad = cupy.ones(SIZE, cupy.float32), cupy.ones(SIZE, cupy.float32)
    optimizer = fastadam.Adam(param, max_grad_norm=1.0)
    optimizer.step(grad)
    stream = cupy.cuda.Stream(null=True)
    stream.synchronize()
    for _ in range(500):
        grad *= 1
    optimizer.step(grad)
    assert not stream.done
    assert optimizer.grad_norm == fastadam.clip_grad_norm([np.ones(SIZE, np.float32)], 1.0)
    assert stream.done


def test_a_step_waits_for_the_stream_of_a_gradient_and_it_for_the_step() -> None:
    cupy = pytest.importorskip("cupy")
    param, expected = cupy.ones(SIZE, cupy.float32), np.ones(SIZE, np.float32)
    optimizer, reference = fastadam.Adam(param), fastadam.Adam(expected)
    stream = cupy.cuda.Stream(non_blocking=True)
    grad = cupy.zeros(SIZE, cupy.float32)
    cupy.cuda.Device().synchronize()
    for t in range(20):
        with stream:
            for _ in range(20):  # long enough that a step that does not wait is too early
                grad[...] = 0
            grad[...] = t
            optimizer.step(grad)
            grad[...] = -1  # and this is too early unless it waits for the step
        reference.step(np.full(SIZE, t, np.float32))
    assert_same_bits(cupy.asnumpy(param), expected)


def test_arrays_of_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    (array,) = random_arrays([(1000,)], np.float32, 0)
    param = cupy.asarray(array)
    optimizer, reference = fastadam.Adam([param]), fastadam.Adam([array])
    flat = fastadam.pack([array], device="cuda")
    assert cupy.asarray(flat.param).data.ptr == flat.param.address  # type: ignore[attr-defined]
    for seed in range(3):
        (grad,) = random_arrays([(1000,)], np.float32, seed)
        optimizer.step([cupy.asarray(grad)])
        reference.step([grad])
    assert_same_bits(cupy.asnumpy(param), array)


def test_tensors_of_torch_through_the_interface() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this build of torch finds no CUDA device")
    (array,) = random_arrays([(1000,)], np.float32, 0)
    param = torch.tensor(array, device="cuda")
    optimizer, reference = fastadam.Adam([param]), fastadam.Adam([array])
    for seed in range(3):
        (grad,) = random_arrays([(1000,)], np.float32, seed)
        optimizer.step([torch.tensor(grad, device="cuda")])
        reference.step([grad])
    assert_same_bits(param.cpu().numpy(), array)
    with pytest.raises(TypeError, match=r"fastadam\.torch\.Adam"):
        fastadam.Adam([param.requires_grad_()])


def test_stale_pointers_are_noticed() -> None:
    from numba import cuda

    param, other = to_device([np.ones(9, np.float32), np.ones(9, np.float32)])
    grad = cuda.to_device(np.ones(9, np.float32))
    optimizer = fastadam.Adam([param])
    optimizer.step([grad])
    param.gpu_data = other.gpu_data
    with pytest.raises(ValueError, match="parameter 0 was exchanged"):
        optimizer.step([grad])
    assert (other.copy_to_host() == 1).all()
    assert optimizer.state[0]["step"] == 1


def test_out_of_memory_leaves_everything_as_it_was() -> None:
    from numba import cuda

    flat = fastadam.pack([np.ones(50_000_000, np.float32)], device="cuda")
    flat.grad.fill(0.5)
    optimizer = fastadam.Adam(flat)
    optimizer.step()
    before = flat.param.copy_to_host()  # type: ignore[attr-defined]
    free, _ = cuda.current_context().get_memory_info()
    hog = cuda.device_array(free - 100_000_000, np.uint8)
    optimizer.param_groups[0]["amsgrad"] = True
    with pytest.raises(MemoryError):
        optimizer.step()
    with pytest.raises(MemoryError):
        fastadam.pack([np.ones(50_000_000, np.float32)], device="cuda")
    del hog
    assert_same_bits(flat.param.copy_to_host(), before)  # type: ignore[attr-defined]
    assert optimizer.state_dict()["state"][0]["step"] == 1
    optimizer.step()
    assert optimizer.state[0]["step"] == 2
