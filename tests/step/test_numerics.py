"""The numerics contract: close to exact arithmetic, and the same bits everywhere."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

import fastadam
from fastadam.groups.group import MOMENTS
from tests.conftest import AVAILABLE
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.oracle import exact_step, ulps
from tests.support.strategies import examples

REFERENCE = "numpy"
WORST_ULPS = 4.0
# Coupled decay rounds twice more before the gradient is squared, which doubles those errors.
WORST_ULPS_WITH_L2 = 6.0


def from_state(
    param: np.ndarray, moments: dict[str, np.ndarray], step: int, options: dict[str, Any], backend: str
) -> fastadam.Adam:
    """Return an optimizer over a copy of `param` that has already taken `step` steps."""
    optimizer = fastadam.Adam(param.copy(), **options, backend=backend)
    saved = optimizer.state_dict()
    saved["state"][0] = {"step": step, **moments}
    if not options["amsgrad"]:
        saved["state"][0].pop(MOMENTS[2])
    optimizer.load_state_dict(saved)
    return optimizer


@st.composite
def shared_states(draw: st.DrawFn, numbers: Any = strategies.magnitudes) -> tuple[Any, ...]:
    """Draw a dtype, options, a step number, and a parameter, gradient and moments of a few elements."""
    dtype = draw(st.sampled_from(strategies.REALS))
    arrays = st_np.arrays(dtype, draw(st.integers(1, 20)), elements=numbers(dtype))
    size = draw(arrays).size
    again = st_np.arrays(dtype, size, elements=numbers(dtype))
    param, grad, exp_avg, root = draw(again), draw(again), draw(again), draw(again)
    with np.errstate(all="ignore"):
        exp_avg_sq = root * root
        moments = {
            "exp_avg": exp_avg,
            "exp_avg_sq": exp_avg_sq,
            "max_exp_avg_sq": draw(again) ** 2 + exp_avg_sq,
        }
    steps = st.one_of(st.integers(0, 10**6), st.integers(1, 10**5).map(lambda eighth: 8 * eighth - 1))
    return dtype, draw(strategies.options()), draw(steps), param, grad, moments


@examples(60)
@given(shared_states(strategies.smallest))
def test_moments_are_zero_or_normal_and_updates_close_to_exact(state: tuple[Any, ...]) -> None:
    """What rounding does below the smallest normal number is an absolute error; so is what is set to zero."""
    dtype, options, step, param, grad, moments = state
    optimizer = from_state(param, moments, step, options, REFERENCE)
    optimizer.step(grad)
    new, (new_param,) = optimizer.state[0], optimizer.param_groups[0]["params"]
    tiny = np.finfo(dtype).tiny
    if (step + 1) % 8 == 0:
        for name in MOMENTS[: 3 if options["amsgrad"] else 2]:
            assert np.all((new[name] == 0) | (np.abs(new[name]) >= tiny)), name
    for i in range(param.size):
        exact = exact_step(param[i], grad[i], *(moments[name][i] for name in MOMENTS), step + 1, **options)
        for name in ("exp_avg", "exp_avg_sq"):
            scale = getattr(exact, f"{name}_scale")
            assert abs(mpmath.mpf(float(new[name][i])) - getattr(exact, name)) <= 1.01 * tiny + 1e-5 * scale, name
        # A step that is lost is far smaller than eps lets any step be.
        lost = options["lr"] * 2 * tiny**0.5 / options["eps"]
        assert abs(mpmath.mpf(float(new_param[i])) - exact.param) <= 1e-5 * exact.param_scale + lost


@examples(40)
@given(shared_states())
def test_one_step_is_within_4_ulp_of_exact_arithmetic(state: tuple[Any, ...]) -> None:
    dtype, options, step, param, grad, moments = state
    optimizer = from_state(param, moments, step, options, REFERENCE)
    optimizer.step(grad)
    (new_param,) = optimizer.param_groups[0]["params"]
    new = optimizer.state[0]
    coupled = options["weight_decay"] and not options["decoupled_weight_decay"]
    worst = WORST_ULPS_WITH_L2 if coupled else WORST_ULPS
    smallest = float(np.finfo(dtype).smallest_normal) if (step + 1) % 8 == 0 else 0.0
    for i in range(param.size):
        olds = (param[i], grad[i], *(moments[name][i] for name in MOMENTS))
        exact = exact_step(*olds, step + 1, **options, smallest=smallest)
        if exact.is_near_smallest:
            continue
        assert ulps(new["exp_avg"][i], exact.exp_avg, exact.exp_avg_scale, dtype) <= worst
        assert ulps(new["exp_avg_sq"][i], exact.exp_avg_sq, exact.exp_avg_sq_scale, dtype) <= worst
        if options["amsgrad"]:
            assert ulps(new["max_exp_avg_sq"][i], exact.max_exp_avg_sq, exact.exp_avg_sq_scale, dtype) <= worst
        assert ulps(new_param[i], exact.param, exact.param_scale, dtype) <= worst


@pytest.mark.parametrize("numbers", [strategies.magnitudes, strategies.smallest, strategies.anything])
@examples(25)
@given(data=st.data())
def test_backends_give_the_same_bits(backend: str, numbers: Any, data: st.DataObject) -> None:
    _, options, step, param, grad, moments = data.draw(shared_states(numbers))
    optimizers = [from_state(param, moments, step, options, name) for name in (REFERENCE, backend)]
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step(grad)
    assert_same_state(snapshot(optimizers[1]), snapshot(optimizers[0]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Any, ...]:
    """Draw groups of shapes with their dtype and options, and a seed for the numbers."""
    groups = draw(
        st.lists(
            st.tuples(
                st.lists(strategies.shapes, min_size=1, max_size=5),
                st.sampled_from(strategies.DTYPES),
                strategies.options(),
            ),
            min_size=1,
            max_size=3,
        )
    )
    return groups, draw(strategies.seeds)


def run(problem: tuple[Any, ...], *, steps: int = 3, packed: bool = False, **choices: Any) -> dict[str, Any]:
    """Take a few steps over a drawn problem; return the snapshot."""
    groups, seed = problem
    dicts = []
    for i, (shapes, dtype, options) in enumerate(groups):
        arrays = random_arrays(shapes, dtype, seed + i)
        dicts.append({"params": fastadam.pack(arrays) if packed else arrays, **options})
    optimizer = fastadam.Adam(dicts, **choices)
    for t in range(steps):
        grads = [
            grad
            for i, (shapes, dtype, _) in enumerate(groups)
            for grad in random_arrays(shapes, dtype, seed + 100 * (t + 1) + i, scale=10.0 ** (t - 1))
        ]
        if packed and t != 1:  # the middle step is given its gradients, the others find them
            for i, group in enumerate(optimizer._groups):
                start = group.start
                for view, grad in zip(dicts[i]["params"].grad_views, grads[start:], strict=False):
                    view[...] = grad
            optimizer.step()
        else:
            optimizer.step(grads)
    return snapshot(optimizer)


@examples(15)
@given(problem=problems())
def test_groups_and_layouts_give_the_same_bits(backend: str, problem: tuple[Any, ...]) -> None:
    expected = run(problem, backend=REFERENCE)
    assert_same_state(run(problem, backend=backend), expected)
    assert_same_state(run(problem, backend=backend, packed=True), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@examples(10)
@given(problem=problems())
def test_thread_counts_give_the_same_bits(
    backend: str, threads: int, problem: tuple[Any, ...], small_shares: None
) -> None:
    expected = run(problem, backend=REFERENCE)
    assert_same_state(run(problem, backend=backend, threads=threads), expected)


@examples(12)
@given(problem=problems())
def test_instruction_sets_give_the_same_bits(
    instruction_set: str, problem: tuple[Any, ...], small_shares: None
) -> None:
    expected = run(problem, backend=REFERENCE)
    assert_same_state(run(problem, backend="c", threads=2), expected)
    assert_same_state(run(problem, backend="c", packed=True, threads=1), expected)


@examples(10)
@given(
    cuts=st.lists(st.integers(0, 4000), max_size=8),
    dtype=st.sampled_from(strategies.DTYPES),
    options=strategies.options(),
    seed=strategies.seeds,
    threads=st.integers(1, 4),
)
def test_random_splits_give_the_same_bits(
    backend: str, cuts: list[int], dtype: Any, options: Any, seed: int, threads: int, small_shares: None
) -> None:
    """However an array is cut into pieces, each element gets the same bits (torch's fused kernel fails this)."""
    whole, grad = random_arrays([4000, 4000], dtype, seed)
    pieces = np.split(whole.copy(), sorted(cuts))
    one = fastadam.Adam(whole, **options, backend=backend, threads=threads)
    many = fastadam.Adam(pieces, **options, backend=backend, threads=threads)
    for _ in range(3):
        one.step(grad)
        many.step(np.split(grad, sorted(cuts)))
    assert_same_bits(np.concatenate(pieces), whole)
    for name in MOMENTS[: 3 if options["amsgrad"] else 2]:
        moments = [many._groups[0].moment(name, i).reshape(-1) for i in range(len(pieces))]
        assert_same_bits(np.concatenate(moments), one.state[0][name], name)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_fifty_steps_over_a_million_elements(dtype: Any, amsgrad: bool) -> None:
    """Long enough for real threads, with an odd tail."""
    size = 1_000_003 if dtype == np.float32 else 100_003
    names = [name for name in AVAILABLE if name != REFERENCE]
    runs = [(REFERENCE, 1), *((name, threads) for name in names for threads in (1, 2))]
    (start,) = random_arrays([size], dtype, 0)
    optimizers = [
        fastadam.Adam(start.copy(), weight_decay=0.01, amsgrad=amsgrad, backend=name, threads=threads)
        for name, threads in runs
    ]
    for t in range(50 if not amsgrad else 5):
        (grad,) = random_arrays([size], dtype, t + 1)
        for optimizer in optimizers:
            optimizer.step(grad)
    for optimizer, what in zip(optimizers[1:], runs[1:], strict=True):
        for name, value in snapshot(optimizers[0]).items():
            assert_same_bits(snapshot(optimizer)[name], value, f"{what}: {name}")


@pytest.mark.parametrize("dtype", strategies.REALS)
def test_special_values_in_every_combination(backend: str, dtype: Any) -> None:
    info = np.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.5, info.tiny, info.smallest_subnormal, -info.smallest_subnormal, info.max]
    values += [-info.max, np.inf, -np.inf, np.nan]
    grid = np.array(np.meshgrid(*[np.array(values, dtype)] * 4)).reshape(4, -1)
    for amsgrad in (False, True):
        for weight_decay, decoupled in ((0.0, False), (0.1, False), (0.1, True)):
            options = {"amsgrad": amsgrad, "weight_decay": weight_decay, "decoupled_weight_decay": decoupled}
            # Zeros keep their sign: a loaded state may hold negative ones.
            second, largest = (np.where(numbers == 0, numbers, np.abs(numbers)) for numbers in grid[[3, 2]])
            moments = {"exp_avg": grid[2], "exp_avg_sq": second, "max_exp_avg_sq": largest}
            results = []
            for name in (REFERENCE, backend):
                optimizer = from_state(grid[0], moments, 6, options, name)
                optimizer.step(grid[1])
                optimizer.step(grid[1])
                results.append(snapshot(optimizer))
            assert_same_state(results[1], results[0])


def test_non_finite_gradients_propagate(backend: str) -> None:
    params = [np.ones(3), np.ones(2)]
    optimizer = fastadam.Adam(params, backend=backend)
    optimizer.step([np.array([np.nan, np.inf, 1.0]), np.ones(2)])
    assert np.isnan(params[0][:2]).all()
    assert np.isfinite(params[0][2])
    assert np.isfinite(params[1]).all()


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_zero_weight_decay_never_touches_infinite_parameters(backend: str, decoupled: bool, amsgrad: bool) -> None:
    """0 * inf would be NaN: without decay there must be no such product, before or after an edit."""
    param = np.array([np.inf, -np.inf, 1.0])
    options: dict[str, Any] = {"decoupled_weight_decay": decoupled, "amsgrad": amsgrad, "backend": backend}
    optimizer = fastadam.Adam(param, **options)
    optimizer.step(np.ones(3))
    assert param[:2].tolist() == [np.inf, -np.inf]
    optimizer = fastadam.Adam(param, weight_decay=0.1, **options)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step(np.ones(3))
    assert param[:2].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_moments_whose_gradients_stay_zero_end_as_zero(backend: str, dtype: Any, eps: float) -> None:
    """Rounding would keep them alive as denormal numbers for ever; without eps, which outweighs them, it does."""
    param = np.ones(40, dtype)
    optimizer = fastadam.Adam(param, betas=(0.5, 0.75), eps=eps, amsgrad=True, backend=backend)
    optimizer.step(np.full(40, 1e-3, dtype))
    zero = np.zeros(40, dtype)
    seen = set()
    for step in range(2, 2600 if np.finfo(dtype).bits == 64 else 400):
        optimizer.step(zero)
        if step % 8 == 0:
            seen.add(optimizer.state[0]["exp_avg"].real[0])
    state = optimizer.state[0]
    least = min(number for number in seen if number)
    assert (least >= np.finfo(dtype).tiny) == (eps > 0)
    assert np.all(state["exp_avg"] == 0)
    assert np.all((state["exp_avg_sq"] == 0) if eps else (state["exp_avg_sq"].real > 0))
    assert np.all(state["max_exp_avg_sq"].real > 0)
    assert not eps or np.isfinite(param).all()


def test_moments_that_were_left_denormal_become_zero_in_the_eighth_step(backend: str) -> None:
    """As in checkpoints from before they did; the running maximum, too, which no gradient of zero would end."""
    for dtype in strategies.REALS:
        tiny = np.finfo(dtype).tiny
        moments = {name: np.array([tiny / 2, -tiny / 4, tiny, 0], dtype) for name in MOMENTS}
        moments["max_exp_avg_sq"] = np.abs(moments["max_exp_avg_sq"])
        moments["exp_avg_sq"] = np.abs(moments["exp_avg_sq"])
        options: dict[str, Any] = {**fastadam.Adam(np.ones(1)).defaults, "amsgrad": True}
        optimizer = from_state(np.ones(4, dtype), moments, 6, options, backend)
        optimizer.step(np.zeros(4, dtype))
        state = optimizer.state[0]
        assert_same_bits(state["max_exp_avg_sq"], moments["max_exp_avg_sq"])
        assert np.all(state["exp_avg"][:2] != 0)
        optimizer.step(np.zeros(4, dtype))
        state = optimizer.state[0]
        assert_same_bits(state["exp_avg"], np.zeros(4, dtype))
        assert_same_bits(state["exp_avg_sq"], np.zeros(4, dtype))
        assert_same_bits(state["max_exp_avg_sq"], np.array([0, 0, tiny, 0], dtype))


def test_complex_numbers_are_pairs_of_reals(backend: str) -> None:
    (param,), (grad,) = random_arrays([(5, 3)], np.complex64, 1), random_arrays([(5, 3)], np.complex64, 2)
    real_param, real_grad = param.copy().view(np.float32), grad.view(np.float32)
    options: dict[str, Any] = {"weight_decay": 0.1, "amsgrad": True, "backend": backend}
    complex_one, real_one = fastadam.Adam(param, **options), fastadam.Adam(real_param, **options)
    for _ in range(4):
        complex_one.step(grad)
        real_one.step(real_grad)
    assert_same_bits(param.view(np.float32), real_param)
    assert complex_one.state[0]["exp_avg_sq"].dtype == np.complex64
