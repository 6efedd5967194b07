"""Checkpoints of compact state: codes, scales, masters and options come back, in any layout, for any format."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.step.hyperparameters import STATE_DTYPES
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

pytest.importorskip("safetensors")

from tests.checkpoint.runs import (
    LAYOUTS,
    SHAPES,
    assert_refuses,
    edit_groups,
    join,
    make,
    split,
    trained,
)

COMPACT = ("float32", "bfloat16", "int8")
NEW = {"state_dtype", "master_weights", "rounding", "seed"}


def other(layout: str) -> str:
    return LAYOUTS[(LAYOUTS.index(layout) + 1) % len(LAYOUTS)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16", "bfloat16"])
@pytest.mark.parametrize("state_dtype", COMPACT)
def test_a_run_goes_on_with_the_same_bits(
    backend: str, tmp_path: Path, state_dtype: Any, dtype: str, layout: str
) -> None:
    """Saved and loaded in another layout, over a wrong start; amsgrad, masters, and seeds that the other lacks."""
    kind = getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else np.dtype(dtype)
    long = np.float32 if np.dtype(kind).itemsize == 2 else kind
    drawn = [[each.astype(kind) for each in random_arrays(SHAPES, long, seed)] for seed in range(5)]
    options: dict[str, Any] = {"state_dtype": state_dtype, "amsgrad": True, "master_weights": True}
    whole = make(drawn[0], layout, **options, seed=9, backend=backend)
    first = make(drawn[0], layout, **options, seed=9, backend=backend)
    for step in (1, 2):
        whole.step(drawn[step])
        first.step(drawn[step])
    path = tmp_path / "run"
    fastadam.save(path, first)
    second = make([np.full_like(each, 7) for each in drawn[0]], other(layout), **options, backend=backend)
    fastadam.load(path, second)
    assert second.seed == 9
    for step in (3, 4):
        whole.step(drawn[step])
        second.step(drawn[step])
    ours, theirs = snapshot(second), snapshot(whole)
    for name, array in theirs.items():
        assert_same_bits(ours[name], array, name)


@pytest.mark.parametrize(("saved", "kept"), [*itertools.permutations(STATE_DTYPES, 2)])
def test_a_file_is_loaded_into_another_state_dtype_as_a_state_dict_is(
    tmp_path: Path, saved: Any, kept: Any
) -> None:
    first, path = trained(state_dtype=saved, amsgrad=True), tmp_path / "run"
    fastadam.save(path, first)
    by_file, by_dict = (trained(state_dtype=kept, amsgrad=True, steps=1) for _ in range(2))
    fastadam.load(path, by_file)
    by_dict.load_state_dict(first.state_dict())
    ours, theirs = snapshot(by_file), snapshot(by_dict)
    for name, array in theirs.items():
        if not name.startswith("param"):
            assert_same_bits(ours[name], array, name)
    assert by_file.state_dtype == kept


def test_a_file_without_them_says_nothing_of_the_options(tmp_path: Path) -> None:
    """So that it is what it was before there were any; and such a file is loaded."""
    path = tmp_path / "run"
    fastadam.save(path, trained())
    header, _ = split(path.read_bytes())
    (group,) = json.loads(header["__metadata__"]["param_groups"])
    assert not NEW & set(group)
    fastadam.save(path, trained(seed=3))
    header, _ = split(path.read_bytes())
    (group,) = json.loads(header["__metadata__"]["param_groups"])
    assert set(group) >= NEW


@pytest.mark.parametrize("state_dtype", COMPACT)
def test_what_is_missing_or_of_another_kind_is_refused(tmp_path: Path, state_dtype: Any) -> None:
    path, optimizer = tmp_path / "run", trained(state_dtype=state_dtype, steps=1)
    fastadam.save(path, trained("named", state_dtype=state_dtype))
    header, body = split(path.read_bytes())
    optimizer = trained("named", state_dtype=state_dtype, steps=1)
    for name in [name for name in header if not name.startswith(("_", "param"))]:
        less = {key: value for key, value in header.items() if key != name}
        path.write_bytes(join(less, body))
        assert_refuses(path, optimizer, "missing|no whole safetensors file")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state_dtype", "int4", "state_dtype must be"),
        ("state_dtype", "bfloat16", "not those that its metadata list"),
        ("state_dtype", None, "not those that its metadata list"),
        ("master_weights", 1, "master_weights must be True or False"),
        ("rounding", "up", "rounding must be"),
        ("seed", -1, "seed must be at least 0"),
        ("seed", 0.5, "seed must be a whole number"),
    ],
)
def test_metadata_that_lie_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    path, optimizer = tmp_path / "run", trained(state_dtype="int8", steps=1)
    fastadam.save(path, trained(state_dtype="int8"))

    def edit(groups: Any) -> None:
        groups[0][name] = value

    edit_groups(path, edit)
    assert_refuses(path, optimizer, message)


def test_codes_of_nothing_are_numbers_all_the_same(tmp_path: Path) -> None:
    """Whatever bytes are in the place of codes and scales, they are taken for what they say."""
    path, optimizer = tmp_path / "run", trained(state_dtype="int8", steps=1)
    fastadam.save(path, trained(state_dtype="int8"))
    header, body = split(path.read_bytes())
    rng = np.random.default_rng(0)
    path.write_bytes(join(header, rng.bytes(len(body))))
    fastadam.load(path, optimizer)
    optimizer.step(random_arrays(SHAPES, np.float32, 1))
    again = trained(state_dtype="int8", steps=1)
    fastadam.load(path, again)
    again.step(random_arrays(SHAPES, np.float32, 1))
    assert_same_state(snapshot(again), snapshot(optimizer))
