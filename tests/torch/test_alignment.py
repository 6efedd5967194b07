"""Tensors at odd addresses, as over a file mapped from its middle: compiled code never gets to see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from fastadam.memory.structs import MOMENTS  # noqa: E402
from fastadam.step.backend import Prepared  # noqa: E402
from fastadam.step.plan import Plan  # noqa: E402
from fastadam.torch import attempts, python_attempt, staging  # noqa: E402

NUMBERS = 300


def at_odd_address(tensor: Any) -> Any:
    """Return a copy that lies one byte off."""
    memory = bytearray(tensor.numel() * tensor.element_size() + 64)
    start = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    offset = -start % 16 + 1
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset).view(tensor.shape)
    assert copy.data_ptr() % 2 == 1
    return copy.copy_(tensor)


@pytest.mark.parametrize("reader", ["native", "python"])
@pytest.mark.parametrize("odd", ["param", "grad", "exp_avg", "step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_same_bits_and_only_aligned_memory(
    dtype: Any, odd: str, reader: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "python":
        monkeypatch.setattr(attempts, "binder", lambda: python_attempt.bind)
    ran: list[Plan] = []

    class Watched(Plan):
        def prepare(self) -> Prepared:
            ran.append(self)
            places = np.stack([self.spans[name] for name in ("param", "grad", *MOMENTS)])
            size = torch.zeros((), dtype=dtype).real.element_size()
            assert not np.any(places % size), "an address that is not aligned is given to compiled code"
            return super().prepare()

    monkeypatch.setattr(staging, "Plan", Watched)
    results = []
    for shift in (False, True):
        param = torch.linspace(-1, 1, NUMBERS).to(dtype)
        param = torch.nn.Parameter(at_odd_address(param) if shift and odd == "param" else param)
        optimizer = fastadam.torch.Adam([param], lr=0.1)
        optimizer.backend = backend
        for step in range(5):
            grad = torch.linspace(step - 2, 1, NUMBERS).to(dtype)
            param.grad = at_odd_address(grad) if shift and odd == "grad" else grad
            if shift and step == 2 and odd in ("exp_avg", "step"):
                optimizer.state[param][odd] = at_odd_address(optimizer.state[param][odd])
            optimizer.step()
            # Native code of the C backend runs the plan itself, so what it has read is looked at afterwards.
            if (known := optimizer._memo.attempts) is not None and known.current is not None:
                spans = known.current.active.plan.spans
                size = param.element_size() // (2 if dtype.is_complex else 1)
                assert not any(np.any(spans[name] % size) for name in ("param", "grad", *MOMENTS))
                assert not np.any(known.cache.params["step"] % 4)
        state = optimizer.state[param]
        results.append(
            [tensor.clone() for tensor in (param.data, state["exp_avg"], state["exp_avg_sq"], state["step"])]
        )
    assert ran
    for plain, shifted in zip(*results, strict=True):
        assert torch.equal(plain, shifted)
