"""fastadam.torch over CUDA tensors: on a GPU (``pytest -m gpu``), and what is said where there is none."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch as face  # noqa: E402 - it needs torch
from fastadam.backends import BackendUnavailableError  # noqa: E402
from fastadam.torch import devices, part  # noqa: E402
from tests.conftest import STATES  # noqa: E402
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

HAS_GPU = STATES["cuda"] == "available" and torch.cuda.is_available()
HAS_GPU = HAS_GPU and os.environ.get("NUMBA_ENABLE_CUDASIM") != "1"
why = f"cuda: {STATES['cuda']}; torch.cuda.is_available(): {torch.cuda.is_available()}"


def gpu(test: Any) -> Any:
    """Mark a test that needs a GPU."""
    return pytest.mark.gpu(pytest.mark.skipif(not HAS_GPU, reason=why)(test))


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are fewer than two devices")

SHAPES = [(3, 4), (7,), (), (0,), (2, 3, 2), (1000, 37), (300_001,)]
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


def test_a_missing_cuda_backend_is_named_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    if STATES["cuda"] == "available":
        pytest.skip("it is not missing")
    monkeypatch.setattr(part, "ordinal_of", lambda tensor: 0)
    monkeypatch.setattr(devices, "is_capturing", lambda: False)
    optimizer = face.Adam(params((3,)))
    give_grads(optimizer, 0)
    before = snapshot(optimizer)
    with pytest.raises(BackendUnavailableError, match="backend 'cuda' is not available: "):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)


def placed(optimizer: Any, *devices: str) -> Any:
    """Return a copy of the optimizer, made before its first step, with its parameters on these devices in turn."""
    groups = copy.deepcopy(optimizer.param_groups)
    position = 0
    for group in groups:
        for i, param in enumerate(group["params"]):
            group["params"][i] = torch.nn.Parameter(param.detach().to(devices[position % len(devices)]))
            position += 1
    return type(optimizer)(groups)


def give_same_grads(ours: Any, theirs: Any, seed: int, **options: Any) -> None:
    give_grads(theirs, seed, **options)
    for mine, its in zip(members(ours), members(theirs), strict=True):
        mine.grad = None if its.grad is None else its.grad.to(mine.device)


def assert_same(ours: Any, theirs: Any) -> None:
    found = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in snapshot(ours).items()
    }
    assert_same_snapshot(found, snapshot(theirs))


def pair(*devices: str, dtype: Any = torch.float32, **options: Any) -> tuple[Any, Any]:
    theirs = face.Adam(params(*SHAPES, dtype=dtype), lr=0.1, **options)
    return placed(theirs, *devices), theirs


@gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_bits_are_those_of_the_host(dtype: Any, options: dict[str, Any]) -> None:
    ours, theirs = pair("cuda", dtype=dtype, **options)
    for t in range(20):
        give_same_grads(ours, theirs, t, skip=lambda step, i: step % 3 == 2 and i % 3 == 1)
        for optimizer in (ours, theirs):
            optimizer.step()
    assert_same(ours, theirs)
    assert {state["step"].device.type for state in ours.state.values()} == {"cpu"}


@gpu
def test_parameters_on_the_host_and_on_a_device() -> None:
    ours, theirs = pair("cpu", "cuda")
    for t in range(6):
        give_same_grads(ours, theirs, t)
        for optimizer in (ours, theirs):
            optimizer.step()
    assert_same(ours, theirs)


@gpu
@two_gpus
def test_parameters_on_two_devices() -> None:
    ours, theirs = pair("cuda:1", "cpu", "cuda:0")
    for t in range(6):
        give_same_grads(ours, theirs, t)
        for optimizer in (ours, theirs):
            optimizer.step()
    assert_same(ours, theirs)


@gpu
def test_the_layout_of_device_tensors_is_what_it_is_on_the_host() -> None:
    ours, theirs = pair("cuda")
    for t in range(2):
        give_same_grads(ours, theirs, t)
        ours.step()
    known = ours._memo.attempts.cache.params
    assert (known["fingerprints"] != 0)[known["nbytes"] > 0].all()


@gpu
def test_no_step_waits_for_the_device() -> None:
    ours, _ = pair("cpu", "cuda")
    host = [draw(param.shape, seed=i).to(param.device) for i, param in enumerate(members(ours))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it does not notice every way of waiting
            torch.cuda.set_sync_debug_mode("error")
        for t in range(5):
            for i, (param, grad) in enumerate(zip(members(ours), host, strict=True)):
                param.grad = None if t > 2 and i % 2 else grad * t
            ours.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_a_step_is_ordered_with_what_stands_in_the_current_stream() -> None:
    ours, theirs = (face.Adam([torch.nn.Parameter(torch.ones(10_000_000, device=d))]) for d in ("cuda", "cpu"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    for t in range(10):
        with torch.cuda.stream(stream):
            grad = torch.zeros(10_000_000, device="cuda")
            for _ in range(20):  # long enough that a step in another stream would be too early
                grad += 0.1 * t
            members(ours)[0].grad = grad
            ours.step()
            members(ours)[0].grad = None
            del grad
        members(theirs)[0].grad = torch.zeros(10_000_000)
        for _ in range(20):
            members(theirs)[0].grad += 0.1 * t
        theirs.step()
    stream.synchronize()
    assert_same_bits(members(ours)[0].cpu(), members(theirs)[0])


@gpu
def test_pointers_that_went_stale_are_noticed() -> None:
    ours, theirs = pair("cuda")
    for t in range(8):
        if t == 3:
            for optimizer in (ours, theirs):
                for param in members(optimizer):
                    param.data = param.data.clone() * 2
        if t == 5:
            for optimizer in (ours, theirs):
                for state in optimizer.state.values():
                    state["exp_avg"] = state["exp_avg"].clone()
            torch.cuda.empty_cache()
        give_same_grads(ours, theirs, t)
        for optimizer in (ours, theirs):
            optimizer.step()
    assert_same(ours, theirs)


@gpu
def test_tensors_of_any_layout() -> None:
    ours, theirs = pair("cuda")
    for t in range(4):
        give_same_grads(ours, theirs, t)
        for optimizer in (ours, theirs):
            param = members(optimizer)[0]
            param.grad = torch.stack([param.grad, param.grad], -1)[..., 0]
            if t == 2:
                param.data = param.data.mT.clone().mT
            optimizer.step()
    assert_same(ours, theirs)


@gpu
def test_a_moment_on_another_device_is_refused() -> None:
    ours, theirs = pair("cuda")
    give_same_grads(ours, theirs, 0)
    ours.step()
    state = ours.state[members(ours)[0]]
    state["exp_avg"] = state["exp_avg"].cpu()
    before = snapshot(ours)
    with pytest.raises(RuntimeError, match="has device cpu, its parameter has cuda:0"):
        ours.step()
    assert_same_snapshot(snapshot(ours), before)


@gpu
def test_states_of_torchs_fused_optimizer_are_taken_over() -> None:
    host = face.Adam(params(*SHAPES), lr=0.1)
    fused = torch.optim.Adam([param.detach().clone().cuda() for param in members(host)], lr=0.1, fused=True)
    for param in members(fused):
        param.grad = torch.ones_like(param)
    fused.step()
    ours = face.Adam([param.detach().clone() for param in members(fused)], lr=0.1, fused=True)
    ours.load_state_dict(copy.deepcopy(fused.state_dict()))  # torch shares tensors that fit as they are
    for _ in range(3):
        for optimizer in (ours, fused):
            for param in members(optimizer):
                param.grad = torch.ones_like(param)
            optimizer.step()
    for mine, its in zip(members(ours), members(fused), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
        assert ours.state[mine]["step"].device.type == "cpu"
        assert ours.state[mine]["step"].item() == 4


@gpu
def test_a_loss_scale_is_undone_by_the_scaler_and_an_overflow_skips_the_step() -> None:
    optimizer = face.Adam([torch.nn.Parameter(torch.ones(100, device="cuda"))], lr=0.1)
    (param,) = members(optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=8.0)
    for t in range(4):
        optimizer.zero_grad()
        scaler.scale((param * (t + 1)).sum()).backward()
        if t == 2:
            param.grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.state[param]["step"].item() == 3


@gpu
def test_out_of_memory_leaves_everything_as_it_was() -> None:
    # So large that torch has to ask the device for the memory of a copy.
    theirs = face.Adam(params(*SHAPES, (3_000_000,)), lr=0.1)
    ours = placed(theirs, "cuda")
    for t in range(2):
        give_same_grads(ours, theirs, t)
        for optimizer in (ours, theirs):
            optimizer.step()
    big = members(ours)[-1]
    big.data = torch.stack([big.data, big.data], -1)[..., 0]  # has to be copied for the step
    give_same_grads(ours, theirs, 2)
    before = snapshot(ours)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        assert isinstance(error_of(ours.step), torch.OutOfMemoryError)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_same_snapshot(snapshot(ours), before)
    for optimizer in (ours, theirs):
        optimizer.step()
    assert_same(ours, theirs)


@gpu
def test_a_captured_graph_is_refused() -> None:
    ours, theirs = pair("cuda")
    give_same_grads(ours, theirs, 0)
    ours.step()
    before = snapshot(ours)
    graph, other = torch.cuda.CUDAGraph(), torch.zeros(1, device="cuda")
    with torch.cuda.graph(graph):
        error = error_of(ours.step)
        other += 1  # torch warns of graphs with nothing in them
    assert "a CUDA graph cannot capture this step" in str(error)
    assert_same_snapshot(snapshot(ours), before)


@gpu
@pytest.mark.parametrize("warm", [False, True], ids=["from the first step", "after steps of our own"])
def test_a_captured_graph_of_torchs_own_step(warm: bool) -> None:
    """With capturable=True; counters that our steps left on the CPU are taken to the device, and back again."""
    ours, host = pair("cuda")
    theirs = torch.optim.Adam([torch.nn.Parameter(param.detach().clone()) for param in members(ours)], lr=0.1)
    give_same_grads(ours, host, 0)
    give_same_grads(theirs, host, 0)
    if warm:
        for optimizer in (ours, theirs):
            optimizer.step()
        for state in theirs.state.values():
            state["step"] = state["step"].cuda()
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["capturable"] = True
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
    assert ours.last_step == "torch: param_groups[0]: capturable=True"
    for mine, its in zip(members(ours), members(theirs), strict=True):
        torch.testing.assert_close(mine, its)
        assert ours.state[mine]["step"].item() == theirs.state[its]["step"].item()
    ours.param_groups[0]["capturable"] = False
    ours.step()
    assert ours.last_step == "fastadam"


@gpu
def test_a_scale_set_on_the_optimizer() -> None:
    ours, theirs = pair("cuda")
    give_same_grads(ours, theirs, 0)
    grads = [param.grad.clone() for param in members(ours)]
    ours.grad_scale = torch.tensor(64.0, device="cuda")
    ours.step()
    assert ours.last_step == "fastadam"
    for param, its, grad in zip(members(ours), members(theirs), grads, strict=True):
        assert torch.equal(param.grad, grad)
        its.grad = grad / 64
    theirs.step()
    for mine, its in zip(members(ours), members(theirs), strict=True):
        torch.testing.assert_close(mine, its)


@gpu
@pytest.mark.parametrize("options", [{"amsgrad": True}, {"state_dtype": "int8"}, {"state_dtype": "bfloat16"}])
def test_rows_come_and_go(options: dict[str, Any]) -> None:
    """As on the CPU, whichever device the row numbers are on."""
    found = []
    for device in ("cpu", "cuda"):
        optimizer = face.Adam([param.detach().to(device).requires_grad_() for param in params((40, 5))], **options)
        for step in range(6):
            if step in (2, 4):
                param = members(optimizer)[0]
                rows = torch.tensor([4, 0, 7, 7], device=device if step == 2 else "cpu")
                assert optimizer.resize(param, None if step == 2 else rows, rows).device == param.device
            for param in members(optimizer):
                param.grad = draw(param.shape, seed=step).to(device)
            optimizer.step()
        found.append(
            {name: getattr(each, "cpu", lambda each=each: each)() for name, each in snapshot(optimizer).items()}
        )
    assert_same_snapshot(*found)
