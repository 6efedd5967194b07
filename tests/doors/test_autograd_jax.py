"""Gradients of HIPS autograd and of JAX on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastadam
from fastadam.memory.jax_arrays import view_on_host
from tests.support.bits import assert_same_bits


@pytest.fixture
def jax() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("jax")
        found.numpy.ones(1)
    return found


def test_autograd_trains(backend: str) -> None:
    autograd = pytest.importorskip("autograd")
    anp = pytest.importorskip("autograd.numpy")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    y = x @ [1.0, -2.0, 0.5]

    def loss(params: Any) -> Any:
        return anp.mean((anp.dot(x, params["w"]) + params["b"] - y) ** 2)

    params = {"w": np.zeros(3), "b": np.zeros(())}
    optimizer = fastadam.Adam(params, lr=0.1, backend=backend)
    gradient = autograd.grad(loss)
    for _ in range(300):
        optimizer.step(gradient(params))
    np.testing.assert_allclose(params["w"], [1.0, -2.0, 0.5], atol=1e-3)
    value_and_grad = autograd.value_and_grad(loss)
    found = fastadam.minimize(value_and_grad, {"w": np.zeros(3), "b": np.zeros(())}, steps=300, lr=0.1)
    for name in params:
        np.testing.assert_allclose(found.params[name], params[name], rtol=1e-12)


def test_jax_gradients_make_the_same_steps_as_numpys(jax: Any, backend: str) -> None:
    def loss(params: Any) -> Any:
        return jax.numpy.sum(params["w"] ** 4) + params["b"] ** 2

    gradient = jax.jit(jax.grad(loss))
    ours = {"w": np.ones((3, 2), np.float32), "b": np.ones((), np.float32)}
    expected = {name: array.copy() for name, array in ours.items()}
    optimizers = [fastadam.Adam(params, lr=0.1, backend=backend) for params in (ours, expected)]
    for _ in range(5):
        grads = gradient({name: array.copy() for name, array in ours.items()})
        assert type(grads["w"]) is not np.ndarray
        optimizers[0].step(grads)
        optimizers[1].step({name: np.array(grad) for name, grad in grads.items()})
        for name in ours:
            assert_same_bits(ours[name], expected[name])
    assert ours["w"].max() < 0.7


def test_jax_arrays_in_each_form(jax: Any, backend: str) -> None:
    values = np.arange(1, 7, dtype=np.float32)
    grad = jax.numpy.asarray(values.copy())
    expected = np.ones(6, np.float32)
    fastadam.Adam(expected, backend=backend).step(values)
    one = np.ones(6, np.float32)
    fastadam.Adam(one, backend=backend).step(grad)
    assert_same_bits(one, expected)
    flat = fastadam.pack([np.ones(2, np.float32), np.ones(4, np.float32)])
    fastadam.Adam(flat, backend=backend).step(grad)
    assert_same_bits(flat.param, expected)
    held = fastadam.Parameter(np.ones(6, np.float32))
    held.grad = grad
    fastadam.Adam([held], backend=backend).step()
    assert_same_bits(held.data, expected)
    many = [np.ones(6, np.float32) for _ in range(100)]
    fastadam.Adam(many, backend=backend).step([grad] * 100)
    for array in many:
        assert_same_bits(array, expected)
    assert_same_bits(np.asarray(grad), values)


@pytest.mark.parametrize("grad_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_jax_gradients_in_16_bits(jax: Any, dtype: str, grad_dtype: str, backend: str) -> None:
    params, expected = (np.ones(3, jax.numpy.dtype(dtype)) for _ in range(2))
    one, other = (fastadam.Adam(each, lr=0.1, backend=backend) for each in (params, expected))
    for _ in range(2):
        one.step([jax.numpy.arange(3, dtype=grad_dtype)])
        other.step([np.arange(3, dtype=np.float32)])
    assert params.tobytes() == expected.tobytes()
    assert params[0] == 1 > params[1]


def test_a_jax_array_on_the_cpu_is_not_copied(jax: Any) -> None:
    grad = jax.numpy.arange(1000.0) * 2
    seen = view_on_host(grad, "the gradient")
    assert seen.__array_interface__["data"] == (grad.unsafe_buffer_pointer(), True)


def test_what_is_refused_of_jax(jax: Any) -> None:
    x = np.ones(3, np.float32)
    optimizer = fastadam.Adam([x])
    with pytest.raises(
        TypeError, match=r"the gradient of .* is a JAX tracer, which has no numbers yet; call step outs"
    ):
        jax.jit(lambda g: optimizer.step([g]))(jax.numpy.ones(3))
    with pytest.raises(TypeError, match="grads is a JAX tracer"):
        jax.jit(lambda g: optimizer.step(g))(jax.numpy.ones(3))
    with pytest.raises(TypeError, match=r"has dtype int32, its parameter has float32, which takes .*; convert it"):
        optimizer.step([jax.numpy.ones(3, "int32")])
    with pytest.raises(ValueError, match="has shape"):
        optimizer.step([jax.numpy.ones(4)])
    deleted = jax.numpy.ones(3) + 1
    deleted.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        optimizer.step([deleted])
    with pytest.raises(TypeError, match="jax"):
        fastadam.Adam([jax.numpy.ones(3)])
    assert x.tolist() == [1.0, 1.0, 1.0]
    assert dict(optimizer.state) == {} or optimizer.state[0].get("step", 0) == 0


class Device:
    platform = "gpu"

    def __str__(self) -> str:
        return "cuda:0"


class OnDevice:
    """Stands in for a JAX array on a GPU, which is not here."""

    aval = None

    def devices(self) -> set[Device]:
        return {Device()}


OnDevice.__module__ = "jaxlib._jax"


def test_a_jax_array_on_another_device_is_refused() -> None:
    optimizer = fastadam.Adam([np.ones(3)])
    with pytest.raises(
        TypeError, match=r"is a JAX array on cuda:0, not on the CPU; copy it to the host with jax.device_"
    ):
        optimizer.step([OnDevice()])


class Cpu:
    platform = "cpu"


class Meddling:
    """Stands in for a JAX array: waiting for it runs code that changes a parameter in place."""

    aval = None

    def __init__(self, values: Any, meddle: Callable[[], object]) -> None:
        self.values, self.meddle = values, meddle

    def devices(self) -> set[Cpu]:
        return {Cpu()}

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.meddle()
        return self.values


Meddling.__module__ = "jaxlib._jax"


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("place", [0, -1])
def test_what_runs_while_jax_is_waited_for_is_seen(backend: str, count: int, place: int) -> None:
    params = [np.ones(64) for _ in range(count)]
    optimizer = fastadam.Adam(params, backend=backend)
    # Stands for all that parameters are checked for, memory that was exchanged among them: here nothing breaks.
    grads = [Meddling(np.ones(64), lambda: None) for _ in params]
    grads[-1].meddle = lambda: params[place].setflags(write=False)
    with pytest.raises(ValueError, match="is read-only"):
        optimizer.step(grads)
    assert all(each.tolist() == [1.0] * 64 for each in params)
    assert len(optimizer.state) == 0


def test_a_gradient_that_jax_computes_while_others_are_not_plain(backend: str) -> None:
    """Views with strides, scalars, JAX's arrays and missing ones, in one step."""
    values = [np.arange(6.0), np.arange(12.0)[::2], np.arange(6.0), np.float64(2.0), None, np.arange(6.0)[::-1]]
    params, expected = ([np.ones(6), np.ones(6), np.ones(6), np.ones(()), np.ones(6), np.ones(6)] for _ in "12")
    grads: list[Any] = list(values)
    for i in (0, 2):
        grads[i] = Meddling(values[i], lambda: None)
    fastadam.Adam(params, backend=backend).step(grads)
    fastadam.Adam(expected, backend=backend).step(values)
    for one, other in zip(params, expected, strict=True):
        assert_same_bits(one, other)


def test_a_jax_array_that_shares_a_parameters_memory_is_refused(jax: Any) -> None:
    flat = fastadam.pack([np.ones(64, np.float32)])  # aligned, so that JAX can take it as it is
    shared = jax.device_put(flat.param, may_alias=True)
    if shared.unsafe_buffer_pointer() != flat.param.ctypes.data:
        pytest.skip("this version of JAX copies")
    with pytest.raises(ValueError, match="shares memory with"):
        fastadam.Adam(flat).step(shared)


class Layer(NamedTuple):
    """Arrays of a layer."""

    w: Any
    b: Any


def test_nested_containers_of_jax(jax: Any, backend: str) -> None:
    """Lists, tuples, dicts, whose keys JAX sorts, named tuples, and containers with nothing in them."""
    params = {
        "layers": [Layer(np.ones((2, 3), np.float32), np.zeros(3, np.float32)), ()],
        "a": ({"z": np.ones(3, np.float32), "c": np.ones((), np.float32)},),
    }

    def loss(p: Any) -> Any:
        layer, _ = p["layers"]
        hidden = jax.numpy.tanh(jax.numpy.arange(2.0) @ layer.w + layer.b)
        return (hidden @ p["a"][0]["z"] - 0.25 + p["a"][0]["c"]) ** 2

    gradient = jax.jit(jax.grad(loss))
    optimizer = fastadam.Adam(params, lr=0.05, backend=backend)
    flat = fastadam.pack(params)
    packed = fastadam.Adam(flat, lr=0.05, backend=backend)
    assert list(optimizer.param_groups[0]["param_names"]) == ["layers.0.w", "layers.0.b", "a.0.z", "a.0.c"]
    for _ in range(200):
        grads = gradient(jax.tree.map(np.copy, params))
        optimizer.step(grads)
        packed.step(grads)
    assert loss(params) < 1e-3
    assert_same_bits(flat.params["layers"][0].w, params["layers"][0].w)
    assert_same_bits(np.asarray(flat.params["a"][0]["c"]), params["a"][0]["c"])


def test_nested_containers_of_autograd(backend: str) -> None:
    autograd = pytest.importorskip("autograd")
    anp = pytest.importorskip("autograd.numpy")
    from autograd import builtins

    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    y = np.tanh(x @ [1.0, -2.0, 0.5])
    params: Any = [[rng.standard_normal((3, 4)), np.zeros(4)], (rng.standard_normal(4), {"b": np.zeros(())})]

    def loss(params: Any) -> Any:
        (w, b), (v, rest) = params
        return anp.mean((anp.dot(anp.tanh(anp.dot(x, w) + b), v) + rest["b"] - y) ** 2)

    found = fastadam.minimize(autograd.value_and_grad(loss), params, steps=300, lr=0.05, backend=backend)
    assert found.loss < 0.01
    own = builtins.dict({"layers": builtins.list([builtins.tuple((np.ones(2), np.ones(1)))])})
    optimizer = fastadam.Adam(own, backend=backend)
    optimizer.step(autograd.grad(lambda p: anp.sum(p["layers"][0][0] ** 2) + anp.sum(p["layers"][0][1]))(own))
    assert optimizer.state["layers.0.1"]["step"] == 1
