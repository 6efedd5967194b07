"""What is saved comes back in every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.checkpoint import reading
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

from tests.checkpoint.runs import LAYOUTS, SHAPES, assert_refuses, make, split, trained  # noqa: E402
from tests.support.strategies import examples  # noqa: E402


@examples(12)
@given(
    options=strategies.options(),
    dtype=st.sampled_from(strategies.DTYPES),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    none_at=st.one_of(st.none(), st.integers(0, 4)),
    seed=strategies.seeds,
)
def test_a_saved_run_goes_on_with_the_same_bits_in_any_layout(
    backend: str, tmp_path: Path, options: Any, dtype: Any, layouts: Any, none_at: Any, seed: int
) -> None:
    def grads(step: int) -> list[Any]:
        drawn: list[Any] = list(random_arrays(SHAPES, dtype, seed + step + 1))
        if none_at is not None and step < 2:
            drawn[none_at] = None  # never stepped before it is saved
        return drawn

    start = random_arrays(SHAPES, dtype, seed)
    whole = make(start, layouts[0], **options, backend="numpy")
    first = make(start, layouts[0], **options, backend=backend)
    for step in range(2):
        whole.step(grads(step))
        first.step(grads(step))
    path = tmp_path / "run.safetensors"
    fastadam.save(path, first, extra={"step": 2})
    second = make([np.full_like(array, 7) for array in start], layouts[1], lr=0.5, backend=backend)
    second.step([np.ones_like(array) for array in start])  # leaves no trace
    assert fastadam.load(path, second) == {"step": 2}
    loaded = snapshot(second)
    assert_same_state({what: loaded[what] for what in snapshot(first)}, snapshot(first))
    for step in range(2, 4):
        whole.step(grads(step))
        second.step(grads(step))
    expected = snapshot(whole)
    assert_same_state({what: snapshot(second)[what] for what in expected}, expected)


@given(st.lists(st.tuples(strategies.shapes, st.sampled_from(strategies.DTYPES)), min_size=1, max_size=5))
@examples(10)
def test_the_library_reads_every_byte_of_our_files(tmp_path: Path, drawn: Any) -> None:
    arrays = [random_arrays([shape], dtype, i)[0] for i, (shape, dtype) in enumerate(drawn)]
    optimizer = fastadam.Adam(arrays, amsgrad=True)
    optimizer.step([np.ones_like(array) for array in arrays])
    path = tmp_path / "run.safetensors"
    fastadam.save(path, optimizer)
    read = safetensors_numpy.load_file(path)
    assert len(read) == 4 * len(arrays)
    for i, array in enumerate(arrays):
        entry = optimizer.state[i]
        for kind, expected in {"param": array, **{k: v for k, v in entry.items() if k != "step"}}.items():
            stored = read[f"{kind}/{i}"]
            if array.dtype.kind == "c":
                assert stored.shape == (*array.shape, 2)
                stored = np.ascontiguousarray(stored).view(array.dtype).reshape(array.shape)
            assert_same_bits(stored, expected)
    # What the library itself writes of the same tensors is the same, but for the order of metadata.
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["format_version"] == "1"
    ours = split(path.read_bytes())
    safetensors_numpy.save_file(read, path, metadata=metadata)
    assert split(path.read_bytes()) == ours
    again = fastadam.Adam([np.zeros_like(array) for array in arrays])
    fastadam.load(path, again)
    assert_same_state(snapshot(again), snapshot(optimizer))


@pytest.mark.parametrize("most", [1, 3, 7, 64])
def test_large_arrays_are_read_in_pieces(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = trained(dtype=np.complex64)
    fastadam.save(tmp_path / "run", optimizer)
    monkeypatch.setattr(reading, "CHUNK", 4 * most)
    monkeypatch.setattr(reading, "WINDOW", 8 * most)
    again = make(random_arrays(SHAPES, np.complex64, 9))
    fastadam.load(tmp_path / "run", again)
    assert_same_state(snapshot(again), snapshot(optimizer))
    fastadam.save(tmp_path / "again", again)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "run").read_bytes()


def test_groups_and_mixed_dtypes(tmp_path: Path) -> None:
    def groups() -> list[dict[str, Any]]:
        return [
            {"params": {"a/b": np.ones(3, np.float32), "a": np.ones((2, 2))}, "lr": 0.1},
            {"params": {"": np.ones(2, np.complex128), "é\n\0": np.ones(())}, "amsgrad": True, "maximize": True},
        ]

    first, second = fastadam.AdamW(groups()), fastadam.Adam(groups())
    first.step({"a/b": np.ones(3, np.float32), "a": None, "": np.ones(2, complex), "é\n\0": np.ones(())})
    fastadam.save(tmp_path / "run", first)
    fastadam.load(tmp_path / "run", second)
    assert_same_state(snapshot(second), snapshot(first))
    for ours, theirs in zip(second.param_groups, first.param_groups, strict=True):
        for key in fastadam.step.hyperparameters.KEYS:
            assert ours[key] == theirs[key]
    assert list(second.state) == [0, 2, 3]


def test_names_are_matched_in_any_order(tmp_path: Path) -> None:
    first = fastadam.Adam({"w": np.ones(2), "b": np.zeros(3)})
    first.step({"w": np.ones(2), "b": np.full(3, 2.0)})
    fastadam.save(tmp_path / "run", first)
    w, b = np.empty(2), np.empty(3)
    second = fastadam.Adam({"b": b, "w": w})
    fastadam.load(tmp_path / "run", second)
    for name, array in (("w", w), ("b", b)):
        given_ = first.param_groups[0]["params"][first.param_groups[0]["param_names"].index(name)]
        assert_same_bits(array, given_)
        assert_same_bits(second.state[name]["exp_avg"], first.state[name]["exp_avg"])


def test_state_without_parameters(tmp_path: Path) -> None:
    first = trained()
    fastadam.save(tmp_path / "run", first, params=False)
    second = make(random_arrays(SHAPES, np.float32, 5))
    before = snapshot(second)
    assert fastadam.load(tmp_path / "run", second) == {}
    after, source = snapshot(second), snapshot(first)
    for what in after:
        assert_same_bits(after[what], (before if what.startswith("param") else source)[what])
    assert (tmp_path / "run").stat().st_size < 5000


def test_third_moments_come_and_go(tmp_path: Path) -> None:
    first = trained(amsgrad=True)
    first.param_groups[0]["amsgrad"] = False
    fastadam.save(tmp_path / "off", first)  # the third moment is kept, as in a state dict
    second = trained()
    fastadam.load(tmp_path / "off", second)
    assert_same_state(snapshot(second), snapshot(first))
    fastadam.save(tmp_path / "none", trained())
    fastadam.load(tmp_path / "none", first)
    assert not any(first._groups[0].moment("max_exp_avg_sq", i).any() for i in range(len(SHAPES)))


def test_a_function_for_lr_is_left_to_the_optimizer(tmp_path: Path) -> None:
    def schedule(step: int) -> float:
        return 0.1 / step

    first = trained(lr=schedule, eps=0.5)
    fastadam.save(tmp_path / "run", first)
    with safetensors.safe_open(tmp_path / "run", framework="np") as file:
        assert "lr is null" in file.metadata()["note"]
    assert_refuses(tmp_path / "run", trained(), "lr was a function.*set lr of the optimizer to that function")
    second = trained(lr=schedule)
    fastadam.load(tmp_path / "run", second)
    assert second.param_groups[0]["lr"] is schedule
    assert second.param_groups[0]["eps"] == 0.5
    third = trained()
    third.param_groups[0]["lr"] = schedule  # edited, and not yet used
    fastadam.load(tmp_path / "run", third)
    assert third.param_groups[0]["lr"] is schedule
    fastadam.save(tmp_path / "run", trained(lr=0.25))
    fastadam.load(tmp_path / "run", second)
    assert second.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    "extra", [{}, {"a": [1, 2.5, None, True, "é\ud800"], "b": {"c": {}}, "": -0.0}, {"big": 2**80, "tiny": 5e-324}]
)
def test_extra_comes_back(tmp_path: Path, extra: Any) -> None:
    fastadam.save(tmp_path / "run", trained(), extra=extra)
    assert fastadam.load(tmp_path / "run", trained()) == extra
