"""torch's functions that clip gradients, in one native call each: they have torch's results."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch as ours  # noqa: E402
from fastadam.torch import gradients, native_attempt  # noqa: E402
from tests.support.strategies import seeds  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    SHORT,
    Parameter,
    assert_close,
    assert_same_bits,
    draw,
    dtype_name,
    surroundings,
)

theirs = torch.nn.utils
FUNCTIONS = ("clip_grad_norm_", "clip_grads_with_norm_", "get_total_norm")
SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (2000,), (0,), (40, 30)]
IS_NATIVE = bool(native_attempt.tensor_reader())
needs_native = pytest.mark.skipif(not IS_NATIVE, reason="native code cannot read tensors here")


def with_grads(dtype: Any = torch.float32, seed: int = 0, size: float = 1.0) -> list[Any]:
    made = [Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    for i, param in enumerate(made):
        param.grad = draw(param.shape, dtype, 100 * seed + i) * size
    return made


def pair(make: Callable[[], list[Any]]) -> tuple[list[Any], list[Any]]:
    return make(), make()


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the lists of gradients that native code has read."""
    calls: list[int] = []
    run = gradients._Room.run

    def counted(room: Any, grads: Any, stages: int) -> int:
        outcome = run(room, grads, stages)
        calls.append(len(grads))
        return outcome

    monkeypatch.setattr(gradients._Room, "run", counted)
    return calls


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(name: str) -> None:
    mine, torchs = (inspect.signature(getattr(module, name)) for module in (ours, theirs))
    assert [(each.name, each.kind, each.default) for each in mine.parameters.values()] == [
        (each.name, each.kind, each.default) for each in torchs.parameters.values()
    ]


@pytest.mark.parametrize("dtype", [*DTYPES, *SHORT], ids=dtype_name)
@pytest.mark.parametrize("max_norm", [0.1, 1, 30.0, 1e9, 0.0])
def test_torchs_results(dtype: Any, max_norm: float, native: list[int]) -> None:
    a, b = pair(lambda: with_grads(dtype))
    found, expected = ours.clip_grad_norm_(a, max_norm), theirs.clip_grad_norm_(b, max_norm)
    assert (found.dtype, found.shape, found.device) == (expected.dtype, expected.shape, expected.device)
    assert_close(found, expected, "norm")
    for mine, torchs in zip(a, b, strict=True):
        assert_close(mine.grad, torchs.grad, "gradient")
    assert native or not IS_NATIVE


@given(seeds, st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_the_bits_of_arrays(seed: int, size: float, max_norm: float) -> None:
    """`fastadam.clip_grad_norm` over the same numbers."""
    a, b = pair(lambda: with_grads(torch.float32, seed, size))
    arrays = [param.grad.numpy() for param in b]
    norm = fastadam.clip_grad_norm(arrays, max_norm)
    found = ours.clip_grad_norm_(a, max_norm)
    if IS_NATIVE:
        assert float(found) == np.float32(norm)
        for param, array in zip(a, arrays, strict=True):
            assert_same_bits(param.grad, torch.from_numpy(array), "gradient")


@needs_native
def test_dtypes_together(native: list[int]) -> None:
    """The norm has the dtype that theirs have in common, as torch's stack of norms has."""
    a, b = pair(lambda: with_grads(torch.float32) + with_grads(torch.float64) + with_grads(torch.bfloat16))
    found, expected = ours.clip_grad_norm_(a, 0.5), theirs.clip_grad_norm_(b, 0.5)
    assert found.dtype == expected.dtype == torch.float64
    assert_close(found, expected, "norm", rtol=1e-2, atol=0.0)
    for mine, torchs in zip(a, b, strict=True):
        assert_close(mine.grad, torchs.grad, "gradient", rtol=2e-2, atol=0.0)
    assert native


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite(bad: float) -> None:
    a, b = pair(with_grads)
    for each in (a, b):
        each[3].grad[1999] = bad
    before = [param.grad.clone() for param in a]
    for function, arguments in ((ours.clip_grad_norm_, (a, 1.0)), (ours.get_total_norm, (before,))):
        with pytest.raises(RuntimeError, match="not finite"):
            function(*arguments, error_if_nonfinite=True)
    for param, grad in zip(a, before, strict=True):
        assert_same_bits(param.grad, grad, "written although it was refused")
    found, expected = ours.clip_grad_norm_(a, 1.0), theirs.clip_grad_norm_(b, 1.0)
    assert_close(found, expected, "norm")
    for mine, torchs in zip(a, b, strict=True):
        assert_close(mine.grad, torchs.grad, "gradient")


@pytest.mark.parametrize("norm_type", [1, 1.0, 3.5, math.inf, "inf", 0.5, 2])
def test_other_norms(norm_type: Any) -> None:
    # (torch refuses the largest number of an empty tensor.)
    a, b = (each[:4] for each in pair(with_grads))
    found = ours.clip_grad_norm_(a, 0.5, norm_type)
    expected = theirs.clip_grad_norm_(b, 0.5, float(norm_type))
    assert_close(found, expected, "norm")
    for mine, torchs in zip(a, b, strict=True):
        assert_close(mine.grad, torchs.grad, "gradient")


def _misaligned() -> Any:
    return torch.frombuffer(bytearray(b" " + bytes(range(24))), dtype=torch.float32, offset=1)


KINDS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "expanded": lambda: torch.ones(1).expand(7),
    "with gaps": lambda: draw((8, 6))[:, ::2],
    "transposed": lambda: draw((8, 6)).t(),
    "channels last": lambda: draw((2, 3, 4, 5)).to(memory_format=torch.channels_last),
    "conjugated": lambda: draw((6,), torch.complex64).conj(),
    "negated": lambda: torch._neg_view(draw((6,))),
    "half": lambda: draw((6,)).half(),
    "misaligned": _misaligned,
    "integers": lambda: torch.arange(6),
}


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_kinds_of_gradients(what: str, name: str) -> None:
    """Whatever a gradient is: torch's result, or torch's error."""

    def run(module: Any) -> Any:
        grads = [draw((5,)), KINDS[what]()]
        given = [Given(grad) for grad in grads]
        try:
            if name == "get_total_norm":
                return module.get_total_norm(grads), grads
            if name == "clip_grad_norm_":
                return module.clip_grad_norm_(given, 0.5), grads
            module.clip_grads_with_norm_(given, 0.5, torch.tensor(3.0))
            return torch.tensor(0.0), grads
        except (RuntimeError, NotImplementedError, TypeError) as error:
            return type(error), str(error).split("\n")[0]

    class Given:
        """As far as those functions look at a parameter."""

        def __init__(self, grad: Any) -> None:
            self.grad = grad

    found, expected = run(ours), run(theirs)
    if isinstance(expected[0], type):
        assert found == expected
        return
    tolerance = {"rtol": 1e-3, "atol": 0.0} if what == "half" else {}  # torch rounds each norm to it
    assert_close(found[0], expected[0], "norm", **tolerance)
    for mine, torchs in zip(found[1], expected[1], strict=True):
        assert_close(mine.to_dense(), torchs.to_dense(), "gradient", **tolerance)


def test_one_tensor_a_generator_and_no_gradient() -> None:
    a, b = pair(with_grads)
    assert_close(ours.clip_grad_norm_(a[3], 0.5), theirs.clip_grad_norm_(b[3], 0.5), "norm")
    assert_close(a[3].grad, b[3].grad, "gradient")
    a[0].grad = b[0].grad = None
    found = ours.clip_grad_norm_((param for param in a), 0.5)
    assert_close(found, theirs.clip_grad_norm_((param for param in b), 0.5), "norm")
    assert_same_bits(ours.clip_grad_norm_([], 0.5), theirs.clip_grad_norm_([], 0.5))
    assert_same_bits(ours.get_total_norm([]), theirs.get_total_norm([]))


@pytest.mark.parametrize("max_norm", [-1.0, math.nan, math.inf, "1", None, torch.tensor(0.5)], ids=repr)
def test_other_limits(max_norm: Any) -> None:
    """Torch decides about those."""

    def run(module: Any) -> Any:
        made = with_grads()
        try:
            return module.clip_grad_norm_(made, max_norm), [param.grad for param in made]
        except (TypeError, RuntimeError, ValueError) as error:
            return type(error), []

    (found, mine), (expected, torchs) = run(ours), run(theirs)
    if isinstance(expected, type):
        assert found is expected
        return
    assert_close(found, expected, "norm")
    for a, b in zip(mine, torchs, strict=True):
        assert_close(a, b, "gradient")


def test_in_two_calls() -> None:
    a, b = pair(with_grads)
    for module, made in ((ours, a), (theirs, b)):
        norm = module.get_total_norm([param.grad for param in made])
        module.clip_grads_with_norm_(made, 0.5, norm)
    for mine, torchs in zip(a, b, strict=True):
        assert_close(mine.grad, torchs.grad, "gradient")


def test_a_gradient_that_two_parameters_have() -> None:
    """Is scaled twice, as torch does it."""
    results = []
    for module in (ours, theirs):
        one, two = Parameter(torch.zeros(300_000)), Parameter(torch.zeros(300_000))
        one.grad = two.grad = draw((300_000,))
        module.clip_grad_norm_([one, two], 0.5)
        results.append(one.grad)
    assert_close(*results, "gradient")


def test_autograd_knows_what_was_written() -> None:
    grad = draw((5,))
    param = Parameter(torch.zeros(5))
    param.grad = grad
    version = grad._version
    ours.clip_grad_norm_([param], 1e9)
    assert grad._version == version, "nothing was written"
    ours.clip_grad_norm_([param], 0.1)
    assert grad._version > version
    with torch.inference_mode():
        made = draw((5,))
    with torch.inference_mode():
        param.grad = made
        ours.clip_grad_norm_([param], 0.1)
    assert float(made.norm()) == pytest.approx(0.1, rel=1e-4)


def test_in_a_compiled_function() -> None:
    """What is traced there is torch's own code."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    a, b = pair(with_grads)
    norm = torch.compile(lambda: ours.clip_grad_norm_(a, 0.5), backend="eager")()
    assert_close(norm, theirs.clip_grad_norm_(b, 0.5), "norm")
    for mine, torchs in zip(a, b, strict=True):
        assert_close(mine.grad, torchs.grad, "gradient")
    dynamo.reset()


def test_large_gradients_on_threads() -> None:
    found = set()
    for n in (1, 2):
        param = Parameter(torch.zeros(700_001))
        param.grad = draw((700_001,))
        with surroundings(threads=n):
            norm = ours.clip_grad_norm_([param], 0.5)
        found.add((float(norm), param.grad.numpy().tobytes()))
    assert len(found) == 1
