"""JAX shares the memory of NumPy arrays, and reads it later: what is advised keeps a step out of it.

Whether a computation has read an array when a step writes to it is a matter of time; whose memory it reads is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.foreign import library

pytestmark = pytest.mark.filterwarnings("ignore")  # of JAX as it starts


@pytest.fixture
def jax() -> Any:
    library("jax.numpy")
    return library("jax")


def aligned(size: int) -> np.ndarray:
    """Return ones at an address that is a multiple of 64, which JAX can take as they are."""
    raw = np.zeros(4 * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    made: np.ndarray = raw[start : start + 4 * size].view(np.float32)
    made[...] = 1
    return made


def test_a_step_shows_in_an_array_that_shares_the_memory(jax: Any) -> None:
    """What the page warns of: if no version of JAX did it any more, it could go."""
    w = aligned(1000)
    shared = jax.device_put(w)
    if shared.unsafe_buffer_pointer() != w.ctypes.data:
        pytest.skip("this version of JAX copies")
    fastadam.Adam(w, lr=0.1).step(np.ones_like(w))
    np.testing.assert_allclose(np.asarray(shared), 0.9)


COPIES: dict[str, Callable[[Any, Any], Any]] = {
    "array": lambda jax, params: jax.tree.map(jax.numpy.array, params),
    "copy": lambda jax, params: jax.tree.map(np.copy, params),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("packed", [False, True])
def test_copies_are_of_memory_that_no_step_writes(jax: Any, name: str, packed: bool) -> None:
    params: Any = {"layers": [aligned(1000), aligned(64)], "scale": aligned(1)}
    flat = fastadam.pack(params) if packed else None
    if flat is not None:
        params = flat.params.copy()
    optimizer = fastadam.Adam(params if flat is None else flat, lr=0.1)
    ours, theirs = jax.tree.leaves(params), jax.tree.leaves(COPIES[name](jax, params))
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(other, np.ndarray):
            assert not np.shares_memory(one, other)
        else:
            start, copied = one.ctypes.data, other.unsafe_buffer_pointer()
            assert not start <= copied < start + one.nbytes
    optimizer.step(jax.tree.map(np.ones_like, params))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, 0.9)
        assert (np.asarray(other) == 1).all()


def test_what_was_waited_for_has_been_read(jax: Any) -> None:
    w = aligned(100_000)
    optimizer = fastadam.Adam(w, lr=0.5)
    loss = jax.jit(lambda w: (w * w).sum())
    for expected in (100_000.0, 25_000.0):
        value = jax.block_until_ready(loss(w))
        optimizer.step(np.ones_like(w))
        assert float(value) == pytest.approx(expected, rel=1e-3)


def test_the_advice_for_jax_arrays_is_right(jax: Any) -> None:
    params = {"w": jax.numpy.ones(64), "b": [jax.numpy.ones(3)]}
    with pytest.raises(TypeError, match="is a JAX array") as error:
        fastadam.Adam(params)
    names: dict[str, Any] = {"jax": jax, "np": np, "params": params}
    made = re.search(r"(params = jax\.tree\.map\(.*?\)), and go on", str(error.value))
    given = re.search(r"gets copies, (.*)$", str(error.value))
    assert made is not None
    assert given is not None
    exec(made[1], names)
    optimizer = fastadam.Adam(names["params"], lr=0.1)
    gradient = jax.grad(lambda p: (p["w"] ** 2).sum() + (p["b"][0] ** 2).sum())
    for _ in range(100):
        optimizer.step(gradient(eval(given[1], names)))
    assert abs(names["params"]["w"]).max() < 0.1
    assert abs(names["params"]["b"][0]).max() < 0.1


def test_tracers_are_no_parameters(jax: Any) -> None:
    with pytest.raises(TypeError, match="parameter 0 is a JAX tracer, which has no numbers yet"):
        jax.jit(lambda w: (fastadam.Adam([w]), w)[1])(jax.numpy.ones(3))


def test_nothing_speaks_of_cuda_to_users_of_the_cpu(jax: Any) -> None:
    w = np.ones(3)
    grad = jax.numpy.ones(3)
    held = fastadam.Parameter(np.ones(3))
    held.grad = grad
    optimizer = fastadam.Adam([w])
    optimizer.step([np.ones(3)])
    state_dict = optimizer.state_dict()
    state_dict["state"][0]["exp_avg"] = grad
    calls: dict[str, Callable[[], object]] = {
        "Adam": lambda: fastadam.Adam(grad),
        "a group": lambda: optimizer.add_param_group({"params": grad}),
        "Parameter": lambda: fastadam.Parameter(grad),
        "pack": lambda: fastadam.pack(grad),
        "one of several to pack": lambda: fastadam.pack([w, grad]),
        "step": lambda: optimizer.step([grad]),
        "one gradient": lambda: optimizer.step(grad),
        "clip_grad_norm": lambda: fastadam.clip_grad_norm(grad, 1.0),
        "one of several to clip": lambda: fastadam.clip_grad_norm([w.copy(), grad], 1.0),
        "load_state_dict": lambda: optimizer.load_state_dict(state_dict),
        "zero_grad": lambda: fastadam.Adam([held]).zero_grad(set_to_none=False),
        "zero_grad in a step": lambda: fastadam.Adam([np.ones(3, np.float32)]).step([grad], zero_grad=True),
    }
    before = w.copy()
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert "cuda" not in str(error.value).lower(), name
    assert (w == before).all()


def test_moments_can_be_jax_arrays(jax: Any) -> None:
    optimizer = fastadam.Adam([np.ones(3, np.float32)])
    optimizer.step([np.ones(3, np.float32)])
    state_dict = optimizer.state_dict()
    state_dict["state"][0]["exp_avg"] = jax.numpy.full(3, 0.5)
    optimizer.load_state_dict(state_dict)
    assert optimizer.state[0]["exp_avg"].tolist() == [0.5] * 3
