"""What users see: every way to give parameters and gradients, options, schedules and closures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastadam
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

SHAPES: list[tuple[int, ...]] = [(4, 3), (3,), ()]
F32 = np.float32


def arrays(seed: int = 0, dtype: Any = np.float64) -> list[np.ndarray]:
    return random_arrays(SHAPES, dtype, seed)


def after_two_steps(params: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    """Return what the simplest use makes of `params`: a list of arrays, a list of gradients."""
    copies = [param.copy() for param in params]
    optimizer = fastadam.Adam(copies, **options)
    optimizer.step(arrays(1))
    optimizer.step(arrays(2))
    return copies


def assert_equal(actual: Any, expected: list[np.ndarray]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert_same_bits(np.asarray(a), e)


FORMS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda params: (param for param in params),
    "map": lambda params: map(np.asarray, params),
    "mapping": lambda params: dict(zip("abc", params, strict=True)),
    "pairs": lambda params: list(zip("abc", params, strict=True)),
    "generator of pairs": lambda params: zip("abc", params, strict=True),
    "parameters": lambda params: [fastadam.Parameter(param) for param in params],
    "mapping of parameters": lambda params: {n: fastadam.Parameter(p) for n, p in zip("abc", params, strict=True)},
    "one group": lambda params: [{"params": params}],
    "group of a generator": lambda params: [{"params": (param for param in params)}],
    "groups": lambda params: [{"params": params[:1]}, {"params": iter(params[1:])}],
    "group of one array": lambda params: [{"params": param} for param in params],
    "groups in a generator": lambda params: ({"params": param} for param in params),
    "named groups": lambda params: [
        {"params": {"a": params[0]}},
        {"params": [("b", params[1]), ("c", params[2])]},
    ],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_parameters(form: Any, backend: str) -> None:
    params = arrays()
    expected = after_two_steps(params)
    optimizer = fastadam.Adam(form(params), backend=backend)
    optimizer.step(arrays(1))
    optimizer.step(tuple(arrays(2)))
    assert_equal(params, expected)


def test_concatenated_lists_of_an_actor_and_a_critic(backend: str) -> None:
    actor, critic = arrays(3), arrays(4)
    expected = [array.copy() for array in actor + critic]
    reference = fastadam.Adam(expected, backend="numpy")
    optimizer = fastadam.Adam(list(actor) + list(critic), lr=1e-3, backend=backend)
    for seed in range(3):
        optimizer.step(arrays(seed) + arrays(seed + 7))
        reference.step(arrays(seed) + arrays(seed + 7))
    assert_equal(actor + critic, expected)


GRADIENT_FORMS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda grads: (grad for grad in grads),
    "mapping": lambda grads: dict(zip("abc", grads, strict=True)),
    "mapping in another order": lambda grads: dict(zip("cba", grads[::-1], strict=True)),
}


@pytest.mark.parametrize("form", GRADIENT_FORMS.values(), ids=GRADIENT_FORMS.keys())
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_of_gradients(form: Any, packed: bool, backend: str) -> None:
    params = dict(zip("abc", arrays(), strict=True))
    expected = after_two_steps(list(params.values()))
    flat = fastadam.pack(params)
    optimizer = fastadam.Adam(flat if packed else params, backend=backend)
    optimizer.step(form(arrays(1)))
    optimizer.step(form(arrays(2)))
    assert_equal((flat.params if packed else params).values(), expected)


def test_one_bare_array_and_one_bare_gradient(backend: str) -> None:
    (param, *_), (grad, *_) = arrays(), arrays(1)
    expected = param.copy()
    fastadam.Adam([expected], backend="numpy").step([grad])
    fastadam.Adam(param, backend=backend).step(grad)
    assert_same_bits(param, expected)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_packed_gradients_are_found_and_may_be_given(dtype: Any, backend: str) -> None:
    expected = arrays(0, dtype)
    reference = fastadam.Adam(expected, backend="numpy")
    flat = fastadam.pack(arrays(0, dtype))
    optimizer = fastadam.Adam(flat, backend=backend)
    for step in range(6):
        grads = arrays(step + 1, dtype)
        reference.step(grads)
        if step % 3 == 0:  # found in the buffer
            for view, grad in zip(flat.grads, grads, strict=True):
                view[...] = grad
            optimizer.step()
        elif step % 3 == 1:  # one for each view
            optimizer.step(grads)
        else:  # one for the whole buffer
            optimizer.step(np.concatenate([grad.reshape(-1) for grad in grads]))
    assert_equal(flat.params, expected)


def test_packed_views_and_buffers_share_memory() -> None:
    flat = fastadam.pack(random_arrays([(2, 3), (), (0,), (5,)], F32, 0))
    assert flat.param.size == flat.grad.size == 12
    assert [view.shape for view in flat.params] == [(2, 3), (), (0,), (5,)]
    flat.param[...] = np.arange(12)
    assert flat.params[1] == 6
    flat.grads[3][0] = 9
    assert flat.grad[7] == 9
    named = fastadam.pack({"w": np.ones((2, 2)), "b": np.zeros(2)})
    assert list(named.params) == list(named.grads) == ["w", "b"]
    assert "w, b" in repr(named)


def test_pack_copies_and_takes_any_strides() -> None:
    base = np.arange(12.0).reshape(3, 4)
    read_only = np.broadcast_to(2.0, (3,))
    flat = fastadam.pack([base.T, base[:, ::-2], read_only])
    assert_same_bits(flat.params[0], np.ascontiguousarray(base.T))
    assert_same_bits(flat.params[1], np.ascontiguousarray(base[:, ::-2]))
    flat.params[0][...] = 0
    assert base[0, 1] == 1


def test_several_packed_groups(backend: str) -> None:
    flats = [fastadam.pack(arrays(0, F32)), fastadam.pack(arrays(1))]
    plain = [array.copy() for flat in flats for array in flat.params]
    optimizer = fastadam.Adam([{"params": flats[0], "lr": 0.1}, {"params": flats[1]}], backend=backend)
    reference = fastadam.Adam([{"params": plain[:3], "lr": 0.1}, {"params": plain[3:]}], backend="numpy")
    for seed in range(3):
        for flat in flats:
            flat.grad[...] = np.random.default_rng(seed).standard_normal(flat.grad.size)
        reference.step([view.copy() for flat in flats for view in flat.grads])
        optimizer.step()
    assert_equal([view for flat in flats for view in flat.params], plain)


def test_parameter_objects(backend: str) -> None:
    params = [fastadam.Parameter(array) for array in arrays()]
    expected = after_two_steps([param.data for param in params])
    optimizer = fastadam.Adam(params, backend=backend)
    for seed in (1, 2):
        for param, grad in zip(params, arrays(seed), strict=True):
            param.grad = grad
        assert optimizer.step() is None
    assert_equal([param.data for param in params], expected)
    assert "grad=" in repr(params[0])
    params[0].data -= 1.0  # in place, so it is still the array that the optimizer knows
    assert_same_bits(params[0].data, expected[0] - 1.0)


def test_zero_grad() -> None:
    param, other = fastadam.Parameter(np.ones(2)), fastadam.Parameter(np.ones(2))
    flat = fastadam.pack([np.ones(3)])
    optimizer = fastadam.Adam([{"params": [param, other, np.ones(1)]}, {"params": flat}])
    param.grad = grad = np.ones(2)
    flat.grad[...] = 1
    optimizer.zero_grad(set_to_none=False)
    assert param.grad is grad
    assert not grad.any()
    assert other.grad is None
    assert not flat.grad.any()
    flat.grad[...] = 1
    optimizer.zero_grad()
    assert param.grad is None
    assert not flat.grad.any()


@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=40)
@given(pattern=st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=6), seed=strategies.seeds)
def test_none_leaves_a_parameter_its_moments_and_its_counter_alone(
    backend: str, packed: bool, pattern: list[tuple[bool, ...]], seed: int
) -> None:
    """Whatever the pattern, each parameter ends where an optimizer of its own would have taken it."""
    shapes: list[tuple[int, ...]] = [(3,), (2, 2), (), (17,)]
    start = random_arrays(shapes, F32, seed)
    alone = [array.copy() for array in start]
    singles = [fastadam.Adam(array, backend="numpy") for array in alone]
    flat = fastadam.pack(start)
    params = flat.params if packed else start
    optimizer = fastadam.Adam(flat if packed else start, backend=backend)
    for step, present in enumerate(pattern):
        grads = random_arrays(shapes, F32, seed + step + 1)
        optimizer.step([grad if there else None for grad, there in zip(grads, present, strict=True)])
        for single, grad, there in zip(singles, grads, present, strict=True):
            if there:
                single.step(grad)
    assert_equal(params, alone)
    for i, single in enumerate(singles):
        if 0 in single.state:
            assert optimizer.state[i]["step"] == single.state[0]["step"]
            assert_same_bits(optimizer.state[i]["exp_avg"], single.state[0]["exp_avg"])
        else:
            assert i not in optimizer.state


def test_a_step_without_any_gradient_changes_nothing(backend: str) -> None:
    optimizer = fastadam.Adam([fastadam.Parameter(array) for array in arrays()], backend=backend)
    before = snapshot(optimizer)
    optimizer.step()
    optimizer.step([None, None, None])
    assert_same_state(snapshot(optimizer), before)


def test_a_zero_gradient_is_not_none(backend: str) -> None:
    param = np.ones(2)
    optimizer = fastadam.Adam(param, backend=backend)
    optimizer.step(np.ones(2))
    after_one = param.copy()
    optimizer.step(np.zeros(2))
    assert optimizer.state[0]["step"] == 2
    assert (param < after_one).all()


GROUP_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.3},
    {"betas": (0.5, 0.6)},
    {"eps": 0.1},
    {"weight_decay": 0.2},
    {"amsgrad": True},
    {"maximize": True},
    {"weight_decay": 0.2, "decoupled_weight_decay": True},
]


def test_each_group_has_its_own_options(backend: str) -> None:
    together = [np.full(5, 0.7) for _ in GROUP_OPTIONS]
    apart = [array.copy() for array in together]
    one = fastadam.Adam(
        [{"params": p, **o} for p, o in zip(together, GROUP_OPTIONS, strict=True)], lr=0.01, backend=backend
    )
    many = [
        fastadam.Adam(p, **{"lr": 0.01, **o}, backend="numpy") for p, o in zip(apart, GROUP_OPTIONS, strict=True)
    ]
    for seed in range(4):
        grads = random_arrays([(5,)] * len(apart), np.float64, seed)
        one.step(grads)
        for optimizer, grad in zip(many, grads, strict=True):
            optimizer.step(grad)
    assert_equal(together, apart)
    assert len({array.tobytes() for array in together}) == len(GROUP_OPTIONS)  # every option does something


@pytest.mark.parametrize("edit", GROUP_OPTIONS, ids=str)
def test_options_can_be_edited_between_steps(edit: dict[str, Any], backend: str) -> None:
    """After an edit in mid-training, steps go on as in an optimizer made with the new options from that state."""
    param, grads = np.linspace(-1, 1, 33), random_arrays([(33,)] * 4, np.float64, 5)
    optimizer = fastadam.Adam(param, backend=backend)
    for grad in grads[:2]:
        optimizer.step(grad)
    saved, expected = optimizer.state_dict(), param.copy()
    saved["param_groups"][0].update(edit)
    if edit.get("amsgrad"):
        saved["state"][0]["max_exp_avg_sq"] = np.zeros(33)
    other = fastadam.Adam(expected, backend="numpy")
    other.load_state_dict(saved)
    optimizer.param_groups[0].update(edit)
    for grad in grads[2:]:
        optimizer.step(grad)
        other.step(grad)
    assert_same_bits(param, expected)
    assert other.param_groups[0].items() >= edit.items()


def test_an_edit_is_seen_though_a_group_is_added_or_a_state_loaded_before_the_step(backend: str) -> None:
    param, expected = np.ones(2), np.ones(2)
    optimizer = fastadam.Adam(param, backend=backend)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.add_param_group({"params": np.ones(1)})
    optimizer.step([np.ones(2), None])
    fastadam.Adam(expected, lr=0.5).step(np.ones(2))
    assert_same_bits(param, expected)
    optimizer.param_groups[0]["lrate"] = 0.1
    optimizer.load_state_dict(fastadam.Adam([{"params": np.ones(2)}, {"params": np.ones(1)}]).state_dict())
    with pytest.raises(ValueError, match="unknown option 'lrate'"):
        optimizer.step([np.ones(2), None])


def test_add_param_group_in_mid_training(backend: str) -> None:
    old, new = np.ones(4), np.ones(3, F32)
    lone_old, lone_new = old.copy(), new.copy()
    optimizer = fastadam.Adam(old, backend=backend)
    references = [fastadam.Adam(lone_old, backend="numpy"), fastadam.Adam(lone_new, lr=0.5, backend="numpy")]
    optimizer.step(np.ones(4))
    references[0].step(np.ones(4))
    optimizer.add_param_group({"params": [new], "lr": 0.5})
    for _ in range(2):
        optimizer.step([np.ones(4), np.full(3, 2, F32)])
        references[0].step(np.ones(4))
        references[1].step(np.full(3, 2, F32))
    assert_equal([old, new], [lone_old, lone_new])
    assert [optimizer.state[i]["step"] for i in (0, 1)] == [3, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5]


def test_a_schedule_follows_each_parameters_own_steps(backend: str) -> None:
    def schedule(step: int) -> float:
        return 0.1 / step

    params, plain = [np.ones(2), np.ones(2)], [np.ones(2), np.ones(2)]
    scheduled = fastadam.Adam(params, lr=schedule, backend=backend)
    by_hand = [fastadam.Adam(array, backend="numpy") for array in plain]
    for present in [(True, True), (True, False), (True, True)]:
        scheduled.step([np.ones(2) if there else None for there in present])
        for optimizer, there in zip(by_hand, present, strict=True):
            if there:
                taken = optimizer.state[0]["step"] if 0 in optimizer.state else 0
                optimizer.param_groups[0]["lr"] = schedule(int(taken) + 1)
                optimizer.step(np.ones(2))
    assert_equal(params, plain)


def test_a_closure_recomputes_gradients_and_its_value_is_returned(backend: str) -> None:
    param = fastadam.Parameter(np.array([1.0, -2.0]))
    expected = param.data.copy()
    optimizer = fastadam.Adam([param], lr=0.1, backend=backend)
    reference = fastadam.Adam(expected, lr=0.1, backend="numpy")

    def closure() -> float:
        optimizer.zero_grad()
        param.grad = 2 * param.data
        return float((param.data**2).sum())

    assert optimizer.step(closure=closure) == 5.0
    reference.step(2 * expected)
    assert_same_bits(param.data, expected)
    assert optimizer.step(closure=closure) < 5.0


def test_a_closure_may_fill_the_gradients_that_are_given(backend: str) -> None:
    param, grad = np.ones(2), np.zeros(2)
    optimizer = fastadam.Adam(param, backend=backend)

    def closure() -> str:
        grad[...] = 1.0
        return "loss"

    assert optimizer.step([grad], closure=closure) == "loss"
    assert (param < 1.0).all()


def test_adamw_is_adam_with_decoupled_decay(backend: str) -> None:
    a, b = np.full(3, 2.0), np.full(3, 2.0)
    fastadam.AdamW(a, backend=backend).step(np.ones(3))
    fastadam.Adam(b, weight_decay=1e-2, decoupled_weight_decay=True, backend=backend).step(np.ones(3))
    assert_same_bits(a, b)
    assert isinstance(fastadam.AdamW(a), fastadam.Adam)
    assert fastadam.AdamW(a).param_groups[0]["weight_decay"] == 1e-2


def test_defaults_are_torchs() -> None:
    group = fastadam.Adam(np.ones(1)).param_groups[0]
    del group["params"]
    assert group == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    }


def test_mixed_dtypes_and_odd_shapes_in_one_optimizer(backend: str) -> None:
    params = [
        array
        for i, dtype in enumerate(strategies.DTYPES)
        for array in random_arrays([(), (0,), (1,), (3, 0, 2), (7,)], dtype, i)
    ]
    grads = [
        grad
        for i, dtype in enumerate(strategies.DTYPES)
        for grad in random_arrays([(), (0,), (1,), (3, 0, 2), (7,)], dtype, i + 50)
    ]
    expected = [param.copy() for param in params]
    optimizer = fastadam.Adam(params, amsgrad=True, backend=backend)
    for _ in range(2):
        optimizer.step(grads)
    for param, grad in zip(expected, grads, strict=True):
        alone = fastadam.Adam(param, amsgrad=True, backend="numpy")
        alone.step([grad])
        alone.step([grad])
    assert_equal(params, expected)


def test_only_empty_arrays(backend: str) -> None:
    optimizer = fastadam.Adam([np.zeros(0), np.zeros((2, 0), F32)], backend=backend)
    optimizer.step([np.zeros(0), np.zeros((2, 0), F32)])
    assert optimizer.state[0]["step"] == 1
    packed = fastadam.Adam(fastadam.pack([np.zeros(0)]), backend=backend)
    packed.step()
    assert packed.state[0]["exp_avg"].shape == (0,)


def test_ndarray_subclasses_are_updated_in_place(backend: str, tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "params", np.float32, "w+", shape=(5,))
    expected = np.zeros(5, F32)
    fastadam.Adam(mapped, backend=backend).step(np.ones(5, F32))
    fastadam.Adam(expected, backend="numpy").step(np.ones(5, F32))
    assert_same_bits(np.asarray(mapped), expected)


def test_gradients_are_never_written(backend: str) -> None:
    grads = [np.ones(100, F32), np.ones((3, 4), F32).T, np.broadcast_to(F32(2), (5,))]
    copies = [grad.copy() for grad in grads]
    params = [np.zeros(grad.shape, F32) for grad in grads]
    optimizer = fastadam.Adam(params, weight_decay=0.1, maximize=True, backend=backend)
    for _ in range(3):
        optimizer.step(grads)
    assert_equal(grads, copies)


def test_gradients_are_not_kept_alive() -> None:
    """A step must not hold the last gradients, which would cost the size of the parameters."""
    import sys

    grad = np.ones(10)
    optimizer = fastadam.Adam(np.zeros(10))
    before = sys.getrefcount(grad)
    optimizer.step([grad])
    optimizer.step([grad[::-1].copy()[::-1]])
    assert sys.getrefcount(grad) == before


def test_repr_names_options_and_backend() -> None:
    text = repr(fastadam.AdamW([np.ones(2)], lr=0.25, backend="numpy"))
    assert text.startswith("AdamW (")
    assert "lr: 0.25" in text
    assert "backend: numpy" in text


@settings(max_examples=20)
@given(seed=strategies.seeds)
def test_it_finds_the_minimum_of_a_quadratic(backend: str, seed: int) -> None:
    (target,) = random_arrays([(6,)], np.float64, seed)
    theta = np.zeros(6)
    optimizer = fastadam.Adam(theta, lr=lambda step: 0.3 * 0.98**step, backend=backend)
    for _ in range(500):
        optimizer.step(theta - target)
    assert np.abs(theta - target).max() < 1e-2
