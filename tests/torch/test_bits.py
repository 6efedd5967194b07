"""What only fastadam.torch promises: the same bits everywhere, and counters that count."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    FEW,
    MOMENTS,
    NAMES,
    SETTINGS,
    SHAPES,
    SHORT,
    Parameter,
    assert_same_bits,
    assert_same_snapshot,
    bits,
    draw,
    finish,
    give_grads,
    grad_for,
    members,
    options_for,
    params,
    snapshot,
)

ALL = (*DTYPES, *SHORT)
LENGTH = 2000


def joined(optimizer: Any, key: str | None = None) -> Any:
    """Return all parameters, or one of their moments, as one vector of bits."""
    return torch.cat([bits(p if key is None else optimizer.state[p][key]) for p in members(optimizer)])


def assert_same_result(actual: Any, expected: Any) -> None:
    assert torch.equal(joined(actual), joined(expected)), "parameters"
    for key in MOMENTS:
        if any(key in state for state in expected.state.values()):
            assert torch.equal(joined(actual, key), joined(expected, key)), key
    steps = [{float(state["step"]) for state in each.state.values()} for each in (actual, expected)]
    assert steps[0] == steps[1]


def whole(dtype: Any, seed: int) -> Any:
    return draw((LENGTH,), dtype, seed)


# Ways to hold LENGTH numbers: each takes a vector and returns tensors that hold it in order.
def ragged(values: Any) -> list[Any]:
    cuts = [0, 1, 2, 5, 12, 28, 29, 61, 126, 255, 512, 512, 1023, 1040, 1999, LENGTH]
    return [values[a:b].clone() for a, b in itertools.pairwise(cuts)]


def tiny(values: Any) -> list[Any]:
    return [part.clone() for part in [*values[:200].split(1), values[200:]]]


def offset(values: Any) -> list[Any]:
    base = torch.zeros(LENGTH + 3, dtype=values.dtype)
    base[3:] = values
    return [base[3:]]


def strided(values: Any) -> list[Any]:
    base = torch.zeros((LENGTH, 3), dtype=values.dtype)
    base[:, 1] = values
    return [base[:, 1]]


def transposed(values: Any) -> list[Any]:
    return [values.view(40, 50).t().contiguous().t()]


def channels_last(values: Any) -> list[Any]:
    return [values.view(5, 4, 10, 10).contiguous(memory_format=torch.channels_last)]


def permuted(values: Any) -> list[Any]:
    return [values.view(5, 4, 10, 10).permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)]


def windowed(values: Any) -> list[Any]:
    base = torch.zeros((40, 60), dtype=values.dtype)
    base[:, 4:54] = values.view(40, 50)
    return [base[:, 4:54]]


HOLDINGS = {
    f.__name__.replace("_", " "): f
    for f in (ragged, tiny, offset, strided, transposed, channels_last, permuted, windowed)
}


def hold(how: Callable[[Any], list[Any]], dtype: Any, grads: Callable[[Any], list[Any]] | None = None) -> Any:
    def make(name: str = "Adam", **options: Any) -> Any:
        def give(optimizer: Any, step: int) -> None:
            given = (grads or how)(whole(dtype, 100 + step))
            for param, grad in zip(members(optimizer), given, strict=True):
                param.grad = grad.view(param.shape) if grad.shape != param.shape else grad

        optimizer = getattr(fastadam.torch, name)([Parameter(part) for part in how(whole(dtype, 1))], **options)
        return finish(optimizer, give)

    return make


def contiguous(values: Any) -> list[Any]:
    return [values]


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("holding", HOLDINGS)
def test_the_same_numbers_held_in_other_ways(holding: str, dtype: Any, setting: str) -> None:
    options = SETTINGS[setting]
    expected = hold(contiguous, dtype)(**options)
    assert_same_result(hold(HOLDINGS[holding], dtype)(**options), expected)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("holding", [name for name in HOLDINGS if name not in ("ragged", "tiny")])
def test_gradients_held_in_other_ways(holding: str, dtype: Any) -> None:
    expected = hold(contiguous, dtype)(**SETTINGS["all"])
    shape = HOLDINGS[holding](whole(dtype, 1))[0].shape
    plain = hold(lambda values: [values.view(shape)], dtype, HOLDINGS[holding])(**SETTINGS["all"])
    assert_same_result(plain, expected)
    other = hold(HOLDINGS[holding], dtype, lambda values: [values.view(shape)])(**SETTINGS["all"])
    assert_same_result(other, expected)


def test_conjugated_and_negative_gradients() -> None:
    for dtype, odd in (
        (torch.complex64, lambda grad: grad.conj().resolve_conj().conj()),
        (torch.float32, lambda grad: torch.complex(torch.zeros_like(grad), -grad).conj().imag),
    ):
        results = []
        for make in (odd, lambda grad: grad):
            optimizer = fastadam.torch.Adam(params((50,), dtype=dtype), weight_decay=0.1)
            for step in range(3):
                members(optimizer)[0].grad = make(draw((50,), dtype, step))
                optimizer.step()
            results.append(optimizer)
        assert_same_result(*results)


def with_attributes(setting: str, dtype: Any, shapes: Any, **attributes: Any) -> Any:
    optimizer = fastadam.torch.Adam(params(*shapes, dtype=dtype), **SETTINGS[setting])
    for key, value in attributes.items():
        setattr(optimizer, key, value)
    return finish(optimizer, lambda each, step: give_grads(each, step, lambda s, i: (s + i) % 4 == 3))


def test_attributes() -> None:
    optimizer = fastadam.torch.Adam(params((2,)))
    assert optimizer.threads is None
    assert optimizer.backend == "auto"


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("setting", FEW)
def test_backends(backend: str, setting: str, dtype: Any) -> None:
    """The first parameters of each shape; `auto` against each."""
    expected = with_attributes(setting, dtype, [*SHAPES, (513,)])
    assert_same_result(with_attributes(setting, dtype, [*SHAPES, (513,)], backend=backend), expected)


def test_backends_can_be_changed_between_steps() -> None:
    expected = with_attributes("all", torch.float32, SHAPES)
    optimizer = fastadam.torch.Adam(params(*SHAPES), **SETTINGS["all"])
    for step, backend in enumerate(["numpy", "c", "auto", "numpy", "auto"]):
        if backend != "c" or fastadam.available_backends()["c"] == "available":
            optimizer.backend = backend
        optimizer.threads = [None, 1, 2, 3, None][step]
        give_grads(optimizer, step, lambda s, i: (s + i) % 4 == 3)
        optimizer.step()
    assert_same_result(optimizer, expected)


@pytest.mark.parametrize("value", ["fused", "", None, 5])
def test_a_backend_that_there_is_not(value: Any) -> None:
    optimizer = finish(fastadam.torch.Adam(params(*SHAPES)), give_grads, 1)
    give_grads(optimizer, 2)
    before = snapshot(optimizer)

    def use() -> None:
        optimizer.backend = value
        optimizer.step()

    with pytest.raises((ValueError, TypeError), match="backend"):
        use()
    assert_same_snapshot(snapshot(optimizer), before)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_threads_that_cannot_be(value: Any) -> None:
    optimizer = finish(fastadam.torch.Adam(params(*SHAPES)), give_grads, 1)
    give_grads(optimizer, 2)
    before = snapshot(optimizer)

    def use() -> None:
        optimizer.threads = value
        optimizer.step()

    with pytest.raises((ValueError, TypeError), match="threads"):
        use()
    assert_same_snapshot(snapshot(optimizer), before)


@pytest.mark.usefixtures("small_shares")
@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("setting", FEW)
def test_threads(backend: str, setting: str, threads: int, dtype: Any) -> None:
    shapes = [*SHAPES, (1000,), (17,)]
    expected = with_attributes(setting, dtype, shapes, threads=1, backend="numpy")
    assert_same_result(with_attributes(setting, dtype, shapes, threads=threads, backend=backend), expected)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_threads_over_much(threads: int | None) -> None:
    """Enough elements for several threads."""
    shapes = [(700_001,), (3,), (300, 333)]
    expected = with_attributes("all", torch.float32, shapes, threads=1)
    assert_same_result(with_attributes("all", torch.float32, shapes, threads=threads), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", SETTINGS)
def test_against_numpy_arrays(setting: str, dtype: Any, name: str) -> None:
    """Bit for bit what `fastadam.Adam` makes of copies of the same numbers."""
    options = options_for(name, setting)
    optimizer = getattr(fastadam.torch, name)(params(*SHAPES, dtype=dtype), **options)
    plain = {
        key: tuple(float(x) for x in value)
        if key == "betas"
        else value
        if isinstance(value, bool)
        else float(value)
        for key, value in options.items()
    }
    arrays = [param.detach().numpy().copy() for param in members(optimizer)]
    theirs = getattr(fastadam, name)(arrays, **plain)
    for step in range(8):
        give_grads(optimizer, step, lambda s, i: (s + i) % 4 == 3)
        theirs.step([None if p.grad is None else p.grad.numpy() for p in members(optimizer)])
        optimizer.step()
    for i, (param, array) in enumerate(zip(members(optimizer), arrays, strict=True)):
        assert_same_bits(param, torch.from_numpy(array), f"parameter {i}")
        for key, value in theirs.state[i].items():
            if key == "step":
                assert optimizer.state[param][key] == int(value)
            else:
                assert_same_bits(optimizer.state[param][key], torch.from_numpy(np.asarray(value)), key)


def test_against_numpy_arrays_of_float16_rounded_once() -> None:
    """Short floats are widened to float32, stepped, and each result is rounded once."""
    for dtype in SHORT:
        optimizer = fastadam.torch.Adam(params((300,), dtype=dtype), lr=0.01, weight_decay=0.1)
        (param,) = members(optimizer)
        for step in range(4):
            array = param.detach().float().numpy().copy()
            twin = fastadam.Adam([array], lr=0.01, weight_decay=0.1)
            saved = twin.state_dict()
            if step:
                state = optimizer.state[param]
                moments = {key: state[key].float().numpy() for key in ("exp_avg", "exp_avg_sq")}
                saved["state"][0] = {"step": int(state["step"]), **moments}
                twin.load_state_dict(saved)
            param.grad = grad_for(param, step)
            twin.step([param.grad.float().numpy()])
            optimizer.step()
            assert_same_bits(param, torch.from_numpy(array).to(dtype), f"{dtype}, step {step}")
            for key in ("exp_avg", "exp_avg_sq"):
                expected = torch.from_numpy(np.asarray(twin.state[0][key])).to(dtype)
                assert_same_bits(optimizer.state[param][key], expected, key)


def test_zeros_infinities_and_nan() -> None:
    values = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, 3e38, 1e-20])
    optimizer = fastadam.torch.Adam([Parameter(values.clone()), Parameter(torch.ones(8))], weight_decay=0.1)
    arrays = [values.numpy().copy(), np.ones(8, np.float32)]
    theirs = fastadam.Adam(arrays, weight_decay=0.1)
    with np.errstate(all="ignore"):
        for _ in range(3):
            grads = [values.flip(0), values]
            for param, grad in zip(members(optimizer), grads, strict=True):
                param.grad = grad.clone()
            optimizer.step()
            theirs.step([grad.numpy() for grad in grads])
    for param, array in zip(members(optimizer), arrays, strict=True):
        assert_same_bits(param, torch.from_numpy(array))


# Counters.


@pytest.mark.parametrize("start", [2**24 - 2, 2**24, 2**24 + 2, 2**25])
@pytest.mark.parametrize("shapes", [[(7,)], [(7,), (3,), ()]], ids=["one", "several"])
def test_counters_beyond_what_float32_counts(start: int, shapes: Any) -> None:
    """Where torch's counter sticks."""
    optimizer = finish(fastadam.torch.Adam(params(*shapes)), give_grads, 1)
    for state in optimizer.state.values():
        state["step"].fill_(start)
    for step in range(1, 6):
        give_grads(optimizer, step)
        optimizer.step()
        assert {int(state["step"].item()) for state in optimizer.state.values()} == {start + step}


def test_a_counter_beyond_what_float32_counts_is_saved_and_loaded() -> None:
    optimizer = finish(fastadam.torch.Adam(params(*SHAPES)), give_grads, 1)
    for state in optimizer.state.values():
        state["step"].fill_(2**24)
    finish(optimizer, give_grads, 3)
    other = fastadam.torch.Adam(params(*SHAPES))
    other.load_state_dict(optimizer.state_dict())
    finish(other, give_grads, 2)
    assert {int(state["step"].item()) for state in other.state.values()} == {2**24 + 5}


def test_a_float64_run_is_closer_to_the_truth_than_float32_by_nothing_but_rounding() -> None:
    """The formula is the same in both."""
    runs = []
    for dtype in (torch.float32, torch.float64):
        optimizer = fastadam.torch.Adam([Parameter(draw((100,)).to(dtype))], **SETTINGS["all"])
        for step in range(20):
            members(optimizer)[0].grad = draw((100,), seed=step).to(dtype)
            optimizer.step()
        runs.append(members(optimizer)[0].detach().double())
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-6)
