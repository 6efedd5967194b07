"""Compact state goes to torch as the numbers it stands for, and comes in encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import convert
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

torch = pytest.importorskip("torch")
fastadam_torch = pytest.importorskip("fastadam.torch")

SHAPES = [(13, 5), (64,), (129,)]


def stepped(state_dtype: Any, **options: Any) -> fastadam.Adam:
    """Return an optimizer after three steps."""
    optimizer = fastadam.Adam(
        random_arrays(SHAPES, np.float32, 0), backend="c", state_dtype=state_dtype, **options
    )
    for step in range(3):
        optimizer.step(random_arrays(SHAPES, np.float32, step + 1))
    return optimizer


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_torch_gets_numbers_and_gives_them_back(state_dtype: Any, kind: str) -> None:
    ours = stepped(state_dtype, amsgrad=True)
    tensors = [torch.from_numpy(member.array.copy()).requires_grad_() for member in ours._groups.members]
    theirs = getattr(torch.optim, kind)(tensors)
    saved = convert.to_torch(ours, theirs)
    assert set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    theirs.load_state_dict(saved)
    for tensor, entry in zip(tensors, ours.state.values(), strict=True):
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert_same_bits(theirs.state[tensor][name].numpy(), entry[name], name)
    plain = fastadam.Adam([member.array.copy() for member in ours._groups.members], backend="c")
    convert.from_torch(theirs, plain)
    for key, entry in ours.state.items():
        assert_same_bits(plain.state[key]["exp_avg"], entry["exp_avg"])
    back = fastadam.Adam(random_arrays(SHAPES, np.float32, 9), backend="c", state_dtype=state_dtype)
    convert.from_torch(theirs, back)
    for key, entry in ours.state.items():
        assert back.param_groups[0]["state_dtype"] == state_dtype
        np.testing.assert_allclose(back.state[key]["exp_avg"], entry["exp_avg"], rtol=1e-6)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_compact_state_of_the_torch_face_is_read(state_dtype: Any) -> None:
    ours = stepped(state_dtype)
    entries = {}
    for key, entry in ours.state_dict()["state"].items():
        found = {name: torch.from_numpy(value) for name, value in entry.items() if name != "step"}
        if state_dtype == "bfloat16":
            found = {name: value.view(torch.bfloat16) for name, value in found.items()}
        entries[key] = {"step": torch.tensor(float(entry["step"])), **found}
    groups = [{**ours.param_groups[0], "params": [0, 1, 2]}]
    plain = fastadam.Adam(random_arrays(SHAPES, np.float32, 9), backend="c")
    convert.from_torch({"state": entries, "param_groups": groups}, plain)
    for key, entry in ours.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(plain.state[key][name], entry[name], name)
    if state_dtype == "int8":
        before = snapshot(plain)
        del entries[0]["exp_avg_scale"]
        with pytest.raises(ValueError, match="exp_avg and exp_avg_scale belong together"):
            convert.from_torch({"state": entries, "param_groups": groups}, plain)
        assert_same_state(snapshot(plain), before)


def test_groups_that_keep_their_state_differently_go_to_libraries_without_groups() -> None:
    optax = pytest.importorskip("optax")
    arrays = random_arrays(SHAPES, np.float32, 0)
    ours = fastadam.Adam(
        [{"params": arrays[:1], "state_dtype": "int8"}, {"params": arrays[1:], "seed": 3}], backend="c"
    )
    ours.step(random_arrays(SHAPES, np.float32, 1))
    state = convert.to_optax(ours, optax.adam(1e-3).init(arrays))
    for key, entry in ours.state.items():
        assert_same_bits(np.asarray(state[0].mu[key]), entry["exp_avg"])
