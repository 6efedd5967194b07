"""Steps over compact state and 16-bit weights: the same bits as the face for arrays, whatever way they go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402 - it needs torch
import fastadam.torch  # noqa: E402
from fastadam.torch import careful, shards  # noqa: E402
from tests.support.compact import BY_NAME, Kept, random_bits  # noqa: E402
from tests.support.torch_cases import assert_same_bits, bits, draw, params, take_care  # noqa: E402

SHAPES: list[tuple[int, ...]] = [(7,), (33, 5), (), (3, 4, 50)]
FORMATS: dict[str, dict[str, Any]] = {
    "bfloat16": {"state_dtype": "bfloat16"},
    "int8": {"state_dtype": "int8", "seed": 3},
    "int8, all": {
        "state_dtype": "int8",
        "seed": 2**63 - 1,
        "amsgrad": True,
        "maximize": True,
        "weight_decay": 0.1,
        "lr": 0.02,
        "betas": (0.8, 0.95),
    },
}
HALVES: dict[str, dict[str, Any]] = {
    "masters": {"master_weights": True, "weight_decay": 0.1},
    "masters and int8": {"master_weights": True, "state_dtype": "int8"},
    "stochastic": {"rounding": "stochastic", "seed": 11, "state_dtype": "bfloat16"},
}
FORMATS |= HALVES
CASES = [
    *((name, dtype) for name in FORMATS if name not in HALVES for dtype in (torch.float32, torch.complex64)),
    *((name, dtype) for name in HALVES for dtype in (torch.bfloat16, torch.float16)),
]
EACH: dict[str, tuple[Any, dict[str, Any]]] = {
    "int8": (torch.float32, {"state_dtype": "int8"}),
    "int8 with amsgrad": (torch.float32, {"state_dtype": "int8", "amsgrad": True}),
    "bfloat16": (torch.float32, {"state_dtype": "bfloat16"}),
    "complex": (torch.complex64, {"state_dtype": "int8"}),
    "float64": (torch.float64, {"state_dtype": "float32"}),
    "masters": (torch.bfloat16, {"master_weights": True}),
    "masters of float16": (torch.float16, {"master_weights": True, "state_dtype": "bfloat16"}),
    "masters and int8": (torch.bfloat16, {"master_weights": True, "state_dtype": "int8", "amsgrad": True}),
    "stochastic": (torch.bfloat16, {"rounding": "stochastic"}),
    "stochastic float16": (torch.float16, {"rounding": "stochastic", "state_dtype": "float32"}),
}


def new(members: Any, backend: str, **options: Any) -> Any:
    optimizer = fastadam.torch.Adam(members, **options)
    optimizer.backend = backend
    return optimizer


def step(optimizer: Any, seed: int) -> None:
    for i, param in enumerate(param for group in optimizer.param_groups for param in group["params"]):
        param.grad = draw(param.shape, param.dtype, 100 * seed + i)
    optimizer.step()


def assert_same_states(actual: Any, expected: Any) -> None:
    """Compare parameters and states of two optimizers."""
    pairs = zip(actual._params, expected._params, strict=True)
    for i, (ours, theirs) in enumerate(pairs):
        assert_same_bits(ours, theirs, f"parameter {i}")
        assert list(actual.state[ours]) == list(expected.state[theirs])
        for name, value in expected.state[theirs].items():
            assert_same_bits(actual.state[ours][name], value, f"{name} of parameter {i}")


def as_array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().clone()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_numpy(tensor: Any) -> np.ndarray:
    """Return a copy as an array that the face for arrays takes."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = as_array(tensor)
    return array.view(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else array


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_the_bits_are_those_of_the_face_for_arrays(name: str, dtype: Any, backend: str, way: str) -> None:
    options = FORMATS[name]
    members = params(*SHAPES, dtype=dtype)
    arrays = [to_numpy(param) for param in members]
    ours = new([{"params": members[:2]}, {"params": members[2:], "lr": 0.3}], backend, **options)
    theirs = fastadam.Adam([{"params": arrays[:2]}, {"params": arrays[2:], "lr": 0.3}], backend=backend, **options)
    for seed in range(4):
        take_care(ours, way)
        step(ours, seed)
        theirs.step([to_numpy(param.grad) for param in members])
    saved = theirs.state_dict()["state"]
    for i, (param, array) in enumerate(zip(members, arrays, strict=True)):
        assert to_numpy(param).tobytes() == array.tobytes(), f"parameter {i}"
        for key, value in ours.state[param].items():
            expected = np.asarray(saved[i][key])
            assert as_array(value).tobytes() == expected.astype(as_array(value).dtype).tobytes(), f"{key}, {i}"


@pytest.mark.parametrize("name", list(EACH))
def test_each_way_gives_the_same_bits(name: str, backend: str, way: str) -> None:
    dtype, options = EACH[name]
    one, other = (new(params(*SHAPES, dtype=dtype), backend, **options) for _ in range(2))
    for seed in range(4):
        take_care(one, way)
        step(one, seed)
        take_care(other, "with care")
        step(other, seed)
    assert_same_states(one, other)


@pytest.mark.parametrize("name", list(EACH))
def test_steps_are_taken_in_one_call(name: str, backend: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, options = EACH[name]
    optimizer = new(params(*SHAPES, dtype=dtype), backend, **options)
    step(optimizer, 0)
    taken = []
    monkeypatch.setattr(careful.CarefulStep, "take", lambda self: taken.append(self) or "fastadam")
    take_care(optimizer, way)
    for seed in range(1, 4):
        step(optimizer, seed)
    assert len(taken) == (3 if way == "with care" else 0)


@pytest.mark.parametrize("name", list(EACH))
def test_the_bits_do_not_depend_on_the_layout(name: str, backend: str) -> None:
    dtype, options = EACH[name]
    plain = params((6, 5), (4, 3, 2, 5), dtype=dtype)
    turned = [
        torch.nn.Parameter(plain[0].detach().t().contiguous().t()),
        torch.nn.Parameter(plain[1].detach().clone(memory_format=torch.channels_last)),
    ]
    assert not any(param.is_contiguous() for param in turned)
    one, other = new(plain, backend, **options), new(turned, backend, **options)
    for seed in range(3):
        step(one, seed)
        step(other, seed)
    assert_same_states(one, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_out_whole_blocks(threads: int, backend: str) -> None:
    one, other = (new(params((700, 700)), backend, state_dtype="int8") for _ in range(2))
    one.threads, other.threads = threads, 1
    for seed in range(2):
        step(one, seed)
        step(other, seed)
    assert_same_states(one, other)


def test_what_is_exchanged_in_the_state_is_noticed(backend: str, way: str) -> None:
    one, other = (new(params((3, 70)), backend, state_dtype="int8") for _ in range(2))
    for optimizer in (one, other):
        step(optimizer, 0)
        step(optimizer, 1)
    (param,) = one._params
    take_care(one, way)
    for key in ("exp_avg_scale", "exp_avg"):
        old = one.state[param][key]
        one.state[param][key] = old.clone()
        old.fill_(1)  # nobody is to look at it any more
        for optimizer in (one, other):
            step(optimizer, 2)
    assert_same_states(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, "int8"])
def test_masters_are_the_weights_of_the_float32_run(dtype: Any, state_dtype: Any, backend: str) -> None:
    start = [param.to(dtype) for param in params((40, 5), (13,))]
    exact = new([torch.nn.Parameter(each.float()) for each in start], backend, state_dtype=state_dtype)
    short = new(list(map(torch.nn.Parameter, start)), backend, master_weights=True, state_dtype=state_dtype)
    for seed in range(1000 if backend == "c" else 50):  # the others take long
        for i, (long, param) in enumerate(zip(exact._params, short._params, strict=True)):
            param.grad = draw(param.shape, torch.float32, 10 * seed + i).to(dtype)
            long.grad = param.grad.float()
        exact.step()
        short.step()
    for long, param in zip(exact._params, short._params, strict=True):
        found = short.decoded_state(param)
        assert_same_bits(found["master_param"], long)
        assert_same_bits(param, long.to(dtype))
        for name in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(found[name], exact.decoded_state(long)[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_are_rounded_with_the_bits_of_their_position(dtype: Any, backend: str) -> None:
    options: dict[str, Any] = {"lr": 0.01, "seed": 5}
    start = [param.detach().to(dtype) for param in params((300,), (17, 3))]
    ours = new(list(map(torch.nn.Parameter, start)), backend, rounding="stochastic", **options)
    exact = new([torch.nn.Parameter(each.float()) for each in start], backend, **options)
    step(ours, 0)
    for long, param in zip(exact._params, ours._params, strict=True):
        long.grad = param.grad.float()
    exact.step()
    number_format = BY_NAME[str(dtype).removeprefix("torch.") + "_stochastic"]
    for position, (long, param) in enumerate(zip(exact._params, ours._params, strict=True)):
        numbers = long.detach().numpy().reshape(-1)
        kept = Kept.of(number_format, numbers)
        kept.write(numbers, random_bits(5, 1, position, 0, numbers.size))
        assert np.array_equal(bits(param).numpy().view(np.uint16), kept.stored.view(np.uint16))


def test_averages_follow_the_masters(backend: str, way: str) -> None:
    start = [param.bfloat16() for param in params((40, 5), (13,))]
    options = {"ema_decay": 0.9, "lr": 0.01}
    exact = new([torch.nn.Parameter(each.float()) for each in start], backend, **options)
    short = new(list(map(torch.nn.Parameter, start)), backend, master_weights=True, **options)
    for seed in range(6):
        take_care(short, way)
        for i, (long, param) in enumerate(zip(exact._params, short._params, strict=True)):
            param.grad = draw(param.shape, torch.float32, 10 * seed + i).bfloat16() if i < 1 or seed < 4 else None
            long.grad = None if param.grad is None else param.grad.float()
        exact.step()
        short.step()
    for long, param in zip(exact._params, short._params, strict=True):
        assert_same_bits(short.ema[param], exact.ema[long])


def test_clipping_scaling_zeroing_and_closures(backend: str, way: str) -> None:
    options = {"max_grad_norm": 0.5, "state_dtype": "int8"}
    one, other = (new(params(*SHAPES), backend, **options) for _ in range(2))
    for seed in range(3):
        take_care(one, way)

        def closure(seed: int = seed) -> float:
            for i, param in enumerate(one._params):
                param.grad = 4 * draw(param.shape, param.dtype, 100 * seed + i)
            return 1.5

        assert one.step(closure, grad_scale=4.0, zero_grad=True) == 1.5
        assert all(param.grad.count_nonzero() == 0 for param in one._params)
        step(other, seed)
        assert one.grad_norm == other.grad_norm > 0.5
    assert_same_states(one, other)


def test_a_skipped_step_changes_nothing(backend: str, way: str) -> None:
    one, other = (new(params(*SHAPES), backend, state_dtype="int8", skip_nonfinite=True) for _ in range(2))
    for optimizer in (one, other):
        step(optimizer, 0)
        step(optimizer, 1)
    take_care(one, way)
    for param in one._params:
        param.grad = torch.full_like(param, torch.inf)
    one.step()
    assert one.skipped_steps == 1
    assert_same_states(one, other)


def test_grad_scaler(backend: str) -> None:
    optimizer = new(params((5, 30)), backend, state_dtype="int8", fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    (param,) = optimizer._params
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale((param**2).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert float(optimizer.state[param]["step"]) == 3
    assert optimizer.state[param]["exp_avg"].dtype == torch.int8


@pytest.mark.parametrize(
    "group", [{"capturable": True}, {"differentiable": True}, {"lr": -0.1}], ids=lambda group: next(iter(group))
)
@pytest.mark.parametrize("name", ["int8", "masters", "stochastic"])
def test_steps_for_torchs_code_are_refused(group: dict[str, Any], name: str, backend: str) -> None:
    dtype, options = EACH[name]
    optimizer = new(params((7,), dtype=dtype), backend, **options)
    step(optimizer, 0)
    before = {name: value.clone() for name, value in optimizer.state[optimizer._params[0]].items()}
    optimizer.param_groups[0].update(group)
    with pytest.raises(RuntimeError, match=f"{next(iter(options))}=.*undo that, or make an optimizer without"):
        step(optimizer, 1)
    for key, value in optimizer.state[optimizer._params[0]].items():
        assert_same_bits(value, before[key])
    # The remedy.
    plain = new([torch.nn.Parameter(optimizer._params[0].detach())], backend)
    plain.load_state_dict(optimizer.state_dict())
    plain.param_groups[0]["capturable"] = False
    step(plain, 1)


def test_options_that_change_nothing_are_not_refused(backend: str) -> None:
    optimizer = new(params((7,)), backend, state_dtype="float32", master_weights=True, rounding="stochastic")
    optimizer.param_groups[0]["lr"] = -0.1
    step(optimizer, 0)
    assert optimizer.last_step.startswith("torch: ")


@pytest.mark.parametrize("name", ["int8", "masters", "stochastic"])
def test_dtensors_are_refused(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, options = EACH[name]
    optimizer = new(params((7,), dtype=dtype), backend, **options)
    monkeypatch.setattr(shards, "are_among", lambda members: True)
    with pytest.raises(RuntimeError, match=f"{next(iter(options))}=.*a parameter is a DTensor"):
        step(optimizer, 0)
    assert not optimizer.state
