"""The norm, clipping and steps that are left out, on CUDA devices, under Numba's simulator (see `conftest.py`)."""

from __future__ import annotations

import math
import os
from typing import Any

import hypothesis
import numpy as np
import pytest
from numba import cuda

import fastadam
from fastadam import backends
from fastadam.backends.cuda import norm as cuda_norm
from fastadam.backends.cuda import norm_kernels
from fastadam.memory.arrays import address
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import BLOCK, MEASURES, ROLES, SPAN, TAKEN
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.norm import Norm
from fastadam.step.plan import Plan
from fastadam.step.variants import variants_of
from tests.support.eager import narrow
from tests.support.norms import bits, gradients, norm_of
from tests.support.plans import bits_of

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (BLOCK + 3,), (0,)]
LAYOUTS = ("in place", "packed", "parameters")
CLIPPED = {"max_grad_norm": 0.5}


@hypothesis.given(gradients())
@hypothesis.settings(max_examples=12)
def test_the_norm_has_the_bits_of_the_host(grads: list[Any]) -> None:
    assert bits(norm_of(grads, "cuda")) == bits(norm_of(grads, "numpy"))


@pytest.mark.parametrize(
    "grad",
    [
        np.array([1e200, 1e-200]),
        np.array([5e-324, 0.0, 1e-310]),
        np.full(40, 1.7e308),
        np.array([1e-45, 1e-40], np.float32),
        np.full(33, 3e38, np.float32),
        np.array([1.0, np.inf]),
        np.array([1.0, np.inf, np.nan], np.float32),
        np.array([-0.0]),
        np.array([1.0] * 32 + [7e-9] * (BLOCK - 32), np.float32),
    ],
    ids=range(9),
)
def test_hard_norms(grad: Any) -> None:
    grads = [grad, np.ones(3, np.float32)]
    for each in (grads, grads[:1]):
        assert bits(norm_of(each, "cuda")) == bits(norm_of(each, "numpy"))


@pytest.mark.parametrize("most", [1, 3])
def test_many_totals_make_the_same_sum(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Whatever block adds to which of them."""
    monkeypatch.setattr(cuda_norm, "MOST_TOTALS", most)
    grad = np.random.default_rng(0).standard_normal(5 * BLOCK).astype(np.float32)
    assert norm_kernels.AT_ONCE < 5
    assert bits(norm_of([grad], "cuda")) == bits(norm_of([grad], "numpy"))


@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
@pytest.mark.parametrize("sizes", [[BLOCK + 70], [40, 7, BLOCK + 33]])
@pytest.mark.parametrize(("max_norm", "divisor"), [(0.5, 1.0), (1e-30, 3.0), (math.inf, 8.0), (0.0, 1.0)])
def test_a_clipped_plan_in_every_format(
    number_format: Any, sizes: list[int], max_norm: float, divisor: float
) -> None:
    """Plans over device memory, as the PyTorch face makes them too."""
    found = []
    for backend in (backends.load("cuda"), backends.load("numpy")):
        rng = np.random.default_rng(1)
        spans, arrays = np.zeros(len(sizes), SPAN.dtype), []
        for span, size in zip(spans, sizes, strict=True):
            for role in ROLES:
                drawn = abs(rng.standard_normal(size)) if "sq" in role else rng.standard_normal(size)
                arrays.append(narrow(drawn.astype(number_format.compute), number_format))
                span[role] = address(arrays[-1])
            span["size"] = size
        norm, steps = Norm(), np.zeros(1, np.int64)
        norm.block["wanted"], norm.block["max_norm"], norm.block["divisor"] = MEASURES, max_norm, divisor
        variants = variants_of(np.full(len(sizes), number_format.code), 0)
        counters = counters_in(steps)
        plan = Plan(spans, variants, counters, counters, [backend], 1, True, norm=norm)
        plan.write_options([Coefficients(Hyperparameters(lr=0.1))])
        for _ in range(2):
            assert plan.take() == TAKEN
        assert steps[0] == 2
        found.append([norm.value, *(bits_of(array, number_format.name).tolist() for array in arrays)])
    assert found[0] == found[1]


class Side:
    """An optimizer over copies on the device, and one over the host's arrays."""

    def __init__(self, layout: str, dtype: Any = np.float32, **settings: Any) -> None:
        arrays = self.drawn(0, dtype)
        self.layout, self.dtype = layout, dtype
        self.flat: Any = fastadam.pack(arrays, device="cuda") if layout == "packed" else None
        self.objects = [fastadam.Parameter(cuda.to_device(array)) for array in arrays]
        on_device = [cuda.to_device(array) for array in arrays]
        given = {"in place": on_device, "packed": self.flat, "parameters": self.objects}[layout]
        self.ours = fastadam.Adam(given, lr=0.1, **settings)
        self.theirs = fastadam.Adam(arrays, lr=0.1, backend="numpy", **settings)

    @staticmethod
    def drawn(seed: int, dtype: Any, size: float = 1.0) -> list[Any]:
        rng = np.random.default_rng(seed)
        turned = 1 - 2j if np.issubdtype(dtype, np.complexfloating) else 1
        return [np.asarray(turned * size * rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]

    def step(self, grads: list[Any], scale: float = 1.0) -> None:
        """Step both; what one raises, the other has to raise."""
        try:
            self._step_ours(grads, scale)
        except RuntimeError:
            with pytest.raises(RuntimeError):
                self.theirs.step(grads, scale)
            raise
        self.theirs.step(grads, scale)

    def _step_ours(self, grads: list[Any], scale: float) -> None:
        on_device = [None if grad is None else cuda.to_device(grad) for grad in grads]
        if self.layout == "parameters":
            for param, grad in zip(self.objects, on_device, strict=True):
                param.grad = grad
            self.ours.step(None, scale)
        elif self.layout == "packed" and all(grad is not None for grad in grads):
            for view, grad in zip(self.flat.grads, grads, strict=True):
                view[...] = grad
            self.ours.step(None, scale)
        else:
            self.ours.step(on_device, scale)

    def assert_same(self) -> None:
        assert bits(self.ours.grad_norm or 0) == bits(self.theirs.grad_norm or 0)
        assert self.ours.skipped_steps == self.theirs.skipped_steps
        assert state_bits(self.ours) == state_bits(self.theirs)


def state_bits(optimizer: fastadam.Adam) -> list[bytes]:
    """Return what a step changes: arrays, moments and counters."""
    state = optimizer.state_dict()["state"]
    params = [member.array for group in optimizer._groups for member in group.members]
    found: list[Any] = [array if isinstance(array, np.ndarray) else array.copy_to_host() for array in params]
    return [
        np.asarray(each).tobytes() for each in found + [state[i][key] for i in state for key in sorted(state[i])]
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_clipped_steps_have_the_bits_of_the_host(layout: str, dtype: Any) -> None:
    side = Side(layout, dtype, max_grad_norm=0.5)
    for step, size in enumerate((1.0, 1e-3, 100.0, 1.0)):
        grads = side.drawn(step, dtype, size)
        if step == 3:
            grads[0] = grads[3] = None
        side.step(grads, 2.0**step)
        side.assert_same()
    side.ours.max_grad_norm = side.theirs.max_grad_norm = math.inf
    side.step(side.drawn(5, dtype))
    side.assert_same()
    side.step([None] * len(SHAPES))
    assert side.ours.grad_norm == 0
    side.ours.max_grad_norm = side.theirs.max_grad_norm = None
    side.step(side.drawn(6, dtype), 3.0)
    assert side.ours.grad_norm is None
    side.assert_same()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_clipped_as_on_the_host(layout: str, bad: float) -> None:
    """A norm that is NaN makes all of them NaN, an infinite one the finite ones zero."""
    side = Side(layout, max_grad_norm=0.5)
    grads = side.drawn(1, np.float32)
    grads[3][BLOCK + 1] = bad
    side.step(grads)
    assert not math.isfinite(side.ours.grad_norm or 0)
    ours, theirs = (
        [bits_of(np.frombuffer(each, np.float32), "float32").tolist() for each in state_bits(one)[: len(SHAPES)]]
        for one in (side.ours, side.theirs)
    )
    assert ours == theirs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_steps_that_are_not_finite_are_left_out(layout: str, bad: float) -> None:
    side = Side(layout, skip_nonfinite=True, max_grad_norm=0.5)
    side.step(side.drawn(1, np.float32))
    before = state_bits(side.ours)
    grads = side.drawn(2, np.float32)
    grads[1][0, 1] = bad
    for _ in range(2):
        side.step(grads)
    assert state_bits(side.ours) == before
    assert side.ours.skipped_steps == 2
    side.step(side.drawn(3, np.float32), 4.0)
    side.assert_same()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_or_refused_by_name(layout: str) -> None:
    side = Side(layout, error_if_nonfinite=True)
    side.step(side.drawn(1, np.float32))
    before = state_bits(side.ours)
    grads = side.drawn(2, np.float32)
    grads[1][0, 1] = np.nan
    with pytest.raises(RuntimeError, match=r"not finite \(error_if_nonfinite=True\); no step was taken"):
        side.step(grads)
    assert state_bits(side.ours) == before
    side.step(side.drawn(3, np.float32))
    side.assert_same()


@pytest.mark.parametrize("settings", [CLIPPED, {**CLIPPED, "skip_nonfinite": True}], ids=["clipped", "or skipped"])
def test_the_norm_goes_over_the_host_and_the_device(settings: dict[str, Any]) -> None:
    arrays = Side.drawn(0, np.float32)
    ours = fastadam.Adam(
        [{"params": arrays[:2]}, {"params": [cuda.to_device(array) for array in arrays[2:]]}], lr=0.1, **settings
    )
    theirs = fastadam.Adam([array.copy() for array in arrays], lr=0.1, **settings)
    for seed in (1, 2, 3):
        grads = Side.drawn(seed, np.float32)
        if seed == 2 and "skip_nonfinite" in settings:
            grads[3][7] = np.nan
        ours.step([*grads[:2], *(cuda.to_device(grad) for grad in grads[2:])], 2.0)
        theirs.step(grads, 2.0)
        assert bits(ours.grad_norm or 0) == bits(theirs.grad_norm or 0)
        assert ours.skipped_steps == theirs.skipped_steps
        assert state_bits(ours) == state_bits(theirs)


def test_whose_norm_is_asked_for() -> None:
    """It is fetched once, and belongs to the last step, on whatever device that was."""
    first, second = np.ones(3, np.float32), cuda.to_device(np.ones(4, np.float32))
    optimizer = fastadam.Adam([first, second], max_grad_norm=1.0)
    optimizer.step([None, cuda.to_device(np.full(4, 2.0, np.float32))])
    assert (optimizer.grad_norm, optimizer.grad_norm) == (4.0, 4.0)
    optimizer.step([None, cuda.to_device(np.full(4, 3.0, np.float32))])
    optimizer.step([np.array([3.0, 4.0, 0.0], np.float32), None])
    assert optimizer.grad_norm == 5.0
    optimizer.step([None, cuda.to_device(np.full(4, 0.5, np.float32))])
    assert optimizer.grad_norm == 1.0
