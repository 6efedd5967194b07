"""States that begin anew, groups that go, and how moments in 8 bits are moved."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    give_grads,
    members,
    params,
    snapshot,
)
from tests.torch.growth_models import tall  # noqa: E402


def test_reset() -> None:
    """One, several, all: as if never stepped."""
    for given in (lambda a, b: a, lambda a, b: [b, a], lambda a, b: iter([a, b]), lambda a, b: None):
        optimizer, first, second = tall(ema_decay=0.9, amsgrad=True)
        optimizer.reset(given(first, second))
        left = [] if given(first, second) is not first else [second]
        assert list(optimizer.state) == left
        assert_same_bits(optimizer.ema[first], first)
        fresh = fastadam.torch.Adam([Parameter(first.detach().clone())], lr=0.1, ema_decay=0.9, amsgrad=True)
        for step in range(4):
            give_grads(optimizer, step)
            members(fresh)[0].grad = first.grad
            optimizer.step()
            fresh.step()
        assert_same_bits(first, members(fresh)[0])
        assert_same_bits(optimizer.ema[first], fresh.ema[members(fresh)[0]])
    optimizer.reset([])
    assert len(optimizer.state) == 2
    with pytest.raises(TypeError, match=r"params\[0\] must be one of"):
        optimizer.reset([1])


def test_removed_groups() -> None:
    optimizer, first, _ = tall(ema_decay=0.9)
    optimizer.add_param_group({"params": params((2,), seed=4), "lr": 0.5})
    for index, kind in ((2, IndexError), (-3, IndexError), ("0", TypeError), (0.0, TypeError), (None, TypeError)):
        with pytest.raises(kind, match="index must be the number"):
            optimizer.remove_param_group(index)
    gone = optimizer.remove_param_group(0)
    assert gone["params"][0] is first
    assert gone["lr"] == 0.1
    assert not optimizer.state
    assert len(optimizer.ema) == 1
    with pytest.raises(ValueError, match="only group"):
        optimizer.remove_param_group(0)
    optimizer.add_param_group(gone)
    assert optimizer.remove_param_group(-2)["lr"] == 0.5
    give_grads(optimizer, 0)
    optimizer.step()
    assert float(optimizer.state[first]["step"]) == 1


def test_blocks_of_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of 8 bits are moved piece by piece, with the same bits, also where numbers are not finite."""
    from fastadam.torch import gathering

    found = []
    for piece in (64, 1000, 1 << 20):
        monkeypatch.setattr(gathering, "PIECE", piece)
        (points,) = params((700, 5))
        optimizer = fastadam.torch.Adam([points], state_dtype="int8", amsgrad=True)
        for step in range(2):
            give_grads(optimizer, step)
            points.grad[300, 2] = float("inf")
            optimizer.step()
        decoded = optimizer.decoded_state(points)
        mask = draw((700,)) > -0.5
        new = optimizer.resize(points, mask, 500)
        n, after = int(mask.sum()), optimizer.decoded_state(new)
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert not after[name][n:].any()
            torch.testing.assert_close(after[name][:n], decoded[name][mask], rtol=0.02, atol=0.02, equal_nan=True)
        found.append(snapshot(optimizer))
    for each in found[1:]:
        assert_same_snapshot(each, found[0])


def test_int8_rows_that_stay_keep_their_bits() -> None:
    """What is grown behind them, and blocks of their own, leave codes as they are."""
    for width, keep in ((5, None), (64, [3, 1, 1]), (128, [0]), (5, list(range(26)))):
        (points,) = params((40, width))
        optimizer = fastadam.torch.Adam([points], state_dtype="int8")
        for step in range(3):
            give_grads(optimizer, step)
            optimizer.step()
        before = optimizer.decoded_state(points)
        new = optimizer.resize(points, keep, 7)
        n = len(new) - 7
        for name in ("exp_avg", "exp_avg_sq"):
            rows = before[name] if keep is None else before[name][keep]
            assert_same_bits(optimizer.decoded_state(new)[name][:n], rows)
