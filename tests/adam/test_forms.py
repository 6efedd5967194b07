"""Every way to give parameters and gradients ends in the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastadam
from tests.adam.arrays import F32, after_two_steps, arrays, assert_equal
from tests.support import strategies
from tests.support.bits import assert_same_bits, random_arrays

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
