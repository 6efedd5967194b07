"""Averages on their way between arrays and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch  # noqa: E402
from fastadam import convert  # noqa: E402
from tests.support.torch_cases import Parameter, assert_same_bits  # noqa: E402


def test_they_arrive_in_every_bit_and_come_back() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3,), np.float32), rng.standard_normal((2, 2), np.float32)]
    ours = fastadam.Adam(arrays, lr=0.1, ema_decay=0.9)
    for _ in range(3):
        ours.step([rng.standard_normal(array.shape, np.float32) for array in arrays])
    params = [Parameter(torch.from_numpy(array.copy())) for array in arrays]
    theirs = fastadam.torch.Adam(params, lr=0.1, ema_decay=0.9)
    theirs.load_state_dict(convert.to_torch(ours, theirs))
    back = fastadam.Adam([array.copy() for array in arrays], lr=0.1, ema_decay=0.9)
    convert.from_torch(theirs, back)
    for i, param in enumerate(params):
        expected = torch.from_numpy(np.asarray(ours.ema[i]))
        assert_same_bits(theirs.ema[param], expected)
        assert_same_bits(torch.from_numpy(np.asarray(back.ema[i])), expected)


def test_torchs_own_optimizer_leaves_them_alone() -> None:
    ours = fastadam.Adam([np.ones(3, np.float32)], ema_decay=0.9)
    ours.step([np.ones(3, np.float32)])
    param = Parameter(torch.ones(3))
    theirs = torch.optim.Adam([param])
    theirs.load_state_dict(convert.to_torch(ours, theirs))
    param.grad = torch.ones(3)
    theirs.step()
    assert theirs.state[param]["step"] == 2
