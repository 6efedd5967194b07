"""Checkpoints: what is saved comes back in every bit, whenever a save is killed; what does not fit is refused."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastadam
from fastadam.checkpoint import reading, writing
from tests import kill_checkpoint
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

LAYOUTS = ("in place", "packed", "objects", "named", "named and packed")
SHAPES: list[tuple[int, ...]] = [(4, 3), (), (9,), (0, 3), (2, 1, 3)]
ROOT = Path(__file__).parents[2]
LONG = 240  # seconds that no process comes near to, unless it hangs


def make(arrays: Any, layout: str = "in place", **options: Any) -> fastadam.Adam:
    """Return an optimizer over copies of arrays, in one of the layouts."""
    copies = [array.copy() for array in arrays]
    named = {f"layer/{i}": array for i, array in enumerate(copies)}
    params: Any = {
        "in place": copies,
        "packed": fastadam.pack(copies),
        "objects": [fastadam.Parameter(array) for array in copies],
        "named": named,
        "named and packed": fastadam.pack(named),
    }[layout]
    return fastadam.Adam(params, **options)


def trained(layout: str = "in place", dtype: Any = np.float32, steps: int = 2, **options: Any) -> fastadam.Adam:
    optimizer = make(random_arrays(SHAPES, dtype, 0), layout, **options)
    for step in range(steps):
        optimizer.step(random_arrays(SHAPES, dtype, step + 1))
    return optimizer


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file and what follows."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def edit_groups(path: Path, edit: Any) -> None:
    """Change what a file's metadata say of groups."""
    header, body = split(path.read_bytes())
    groups = json.loads(header["__metadata__"]["param_groups"])
    edit(groups)
    header["__metadata__"]["param_groups"] = json.dumps(groups)
    path.write_bytes(join(header, body))


def assert_refuses(path: Path, optimizer: fastadam.Adam, match: str) -> None:
    """Fail unless loading raises a ValueError that says `match` and changes nothing."""
    before, options = snapshot(optimizer), repr(optimizer.param_groups)
    with pytest.raises(ValueError, match=match):
        fastadam.load(path, optimizer)
    assert_same_state(snapshot(optimizer), before)
    assert repr(optimizer.param_groups) == options


@settings(max_examples=40)
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
@settings(max_examples=30)
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


@pytest.mark.parametrize(
    ("extra", "error", "match"),
    [
        ([1], TypeError, "extra must be a mapping"),
        ({"a": np.ones(2)}, TypeError, "extra cannot be saved as JSON"),
        ({"a": float("nan")}, ValueError, "extra cannot be saved as JSON"),
        ({1: 2}, ValueError, "strings as keys"),
        ({"a": (1, 2)}, ValueError, "lists for tuples"),
    ],
)
def test_extra_that_would_not_come_back_is_refused(tmp_path: Path, extra: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        fastadam.save(tmp_path / "run", trained(), extra=extra)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_saved_or_loaded_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    optimizer = trained()
    path = tmp_path / "run"
    with pytest.raises(TypeError, match=r"opt must be a fastadam\.Adam, got dict"):
        fastadam.save(path, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path must be a string or a path, got 3"):
        fastadam.save(3, optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path must be"):
        fastadam.load(b"run", optimizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params must be True or False, got 'no'"):
        fastadam.save(path, optimizer, params="no")  # type: ignore[arg-type]
    with pytest.raises(IsADirectoryError, match="is a directory; name a file in it"):
        fastadam.save(tmp_path, optimizer)
    with pytest.raises(ValueError, match="no regular file"):
        fastadam.save(os.devnull, optimizer)
    with pytest.raises(ValueError, match="no regular file"):
        fastadam.load(os.devnull, optimizer)
    with pytest.raises(FileNotFoundError):
        fastadam.load(path, optimizer)
    with pytest.raises(FileNotFoundError):
        fastadam.save(tmp_path / "nowhere" / "run", optimizer)
    with pytest.raises(ValueError, match="cannot be saved as UTF-8"):
        fastadam.save(path, fastadam.Adam({"\ud800": np.ones(1)}))
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be finite and at least 0"):
        fastadam.save(path, optimizer)
    assert not any(tmp_path.iterdir())


def test_a_header_beyond_the_formats_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LONGEST_HEADER", 4000)
    with pytest.raises(ValueError, match=r"the header would have .* a smaller extra"):
        fastadam.save(tmp_path / "run", trained(), extra={"a": "b" * 4000})
    assert not any(tmp_path.iterdir())


def test_what_is_missing_unexpected_or_of_another_shape_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fastadam.save(path, fastadam.Adam({"a": np.ones(2), "b": np.ones((3, 2)), "c": np.ones(1)}))
    other = fastadam.Adam({"a": np.ones(2, np.float32), "b": np.ones((2, 3)), "d": np.ones(1)})
    assert_refuses(
        path,
        other,
        r"missing: 'd'; unexpected: 'c'; of another shape or dtype: parameter 'a' \(float64 \(2,\) in the file, "
        r"float32 \(2,\) here\), parameter 'b' \(float64 \(3, 2\) in the file, float64 \(2, 3\) here\)",
    )
    fastadam.save(path, fastadam.Adam([np.ones(2)]))
    assert_refuses(path, fastadam.Adam([np.ones(2), np.ones(3)]), "missing: parameter 1")
    fastadam.save(path, fastadam.Adam([np.ones(2)] + [np.ones(i) for i in range(20)]))
    assert_refuses(path, fastadam.Adam([np.ones(2)]), "unexpected: '1', .* and 10 more")
    assert_refuses(path, fastadam.Adam([{"params": np.ones(2)}, {"params": np.ones(2)}]), "parameter groups")
    param = np.ones(2)
    fixed = fastadam.Adam([param])
    fastadam.save(path, fixed)
    param.setflags(write=False)
    assert_refuses(path, fixed, "read-only")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("lr", -1.0, "lr must be finite"),
        ("lr", "fast", "lr must be a real number"),
        ("lr", float("inf"), "not finite"),
        ("betas", [0.9], "betas must be a pair"),
        ("betas", [0.9, 1.0], r"betas\[1\]"),
        ("eps", None, "eps"),
        ("amsgrad", 1, "amsgrad must be True or False"),
        ("amsgrad", True, "missing: 'max_exp_avg_sq/0'"),
        ("unheard", 1, "not the keys"),
        ("params", [], "lists no parameters"),
        ("params", 3, "lists no parameters"),
    ],
)
def test_damaged_options_are_refused(tmp_path: Path, key: str, value: Any, match: str) -> None:
    path = tmp_path / "run"
    fastadam.save(path, trained())
    edit_groups(path, lambda groups: groups[0].update({key: value}))
    assert_refuses(path, trained(steps=1), match)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("step", -1, "step"),
        ("step", 2**62, "step"),
        ("step", True, "step"),
        ("step", 1.0, "step"),
        ("step", 0, "unexpected: 'exp_avg/0'"),
        ("shape", [3, 4], "another shape"),
        ("shape", [-4, -3], "has the shape"),
        ("shape", [10**30], "another shape"),
        ("shape", 12, "has the shape"),
        ("dtype", "float64", "another shape or dtype"),
        ("dtype", "object", "has the dtype"),
        ("dtype", ["float32"], "has the dtype"),
        ("name", "w", "names are missing"),
        ("name", 3, "has the name"),
        ("more", 3, "damaged parameter"),
    ],
)
def test_damaged_parameters_are_refused(tmp_path: Path, key: str, value: Any, match: str) -> None:
    path = tmp_path / "run"
    fastadam.save(path, trained())
    edit_groups(path, lambda groups: groups[0]["params"][0].update({key: value}))
    assert_refuses(path, trained(steps=1), match)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({"format": "pt"}, "not written by fastadam.save"),
        ({"format_version": "2"}, "format version '2', this version of fastadam reads '1'"),
        ({"param_groups": "[" * 100_000}, "no JSON"),
        ({"param_groups": "{}"}, "no list of groups"),
        ({"param_groups": "[3]"}, "not the keys"),
        ({"extra": "[]"}, "'extra' in its metadata is no mapping"),
        ({"extra": '{"a": NaN}'}, "'extra'.*NaN is not finite"),
        ({"extra": '{"a": 1e999}'}, "'extra'.*1e999 is not finite"),
        ({"extra": '{"a": ' + "9" * 5000 + "}"}, "'extra'"),
    ],
)
def test_damaged_metadata_are_refused(tmp_path: Path, edit: Any, match: str) -> None:
    path = tmp_path / "run"
    fastadam.save(path, trained())
    header, body = split(path.read_bytes())
    header["__metadata__"].update(edit)
    path.write_bytes(join(header, body))
    assert_refuses(path, trained(steps=1), match)


def test_files_of_other_origin_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    safetensors_numpy.save_file({"w": np.ones(3)}, path)
    assert_refuses(path, trained(), "not written by fastadam.save")
    fastadam.save(path, trained())
    tensors = safetensors_numpy.load_file(path)
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
    for edit, match in [
        ({"more": np.ones(1)}, "unexpected: 'more'"),
        ({"exp_avg/0": np.ones((3, 4), np.float32)}, "of another shape or dtype: 'exp_avg/0'"),
        ({"exp_avg/0": np.ones((4, 3), np.float16)}, "of another shape or dtype: 'exp_avg/0'"),
        ({"exp_avg/0": np.ones((4, 3), np.int32)}, "of another shape or dtype: 'exp_avg/0'"),
    ]:
        safetensors_numpy.save_file({**tensors, **edit}, path, metadata=metadata)
        assert_refuses(path, trained(steps=1), match)
    safetensors_numpy.save_file({k: v for k, v in tensors.items() if k != "param/2"}, path, metadata=metadata)
    assert_refuses(path, trained(steps=1), "missing: 'param/2'")


def _load_damaged(path: Path, data: bytes) -> bool:
    """Load what may be damaged: either it is refused and changes nothing, or it loads."""
    path.write_bytes(data)
    optimizer = trained(steps=1)
    before = snapshot(optimizer)
    try:
        fastadam.load(path, optimizer)
    except ValueError:
        assert_same_state(snapshot(optimizer), before)
        return False
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run"
    fastadam.save(path, trained("named", amsgrad=True), extra={"epoch": 3})
    return path.read_bytes()


@settings(max_examples=300)
@given(data=st.data())
def test_truncated_and_overlong_files_are_refused(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(whole) - 1))
    assert not _load_damaged(tmp_path / "run", whole[:length])
    assert not _load_damaged(tmp_path / "run", whole + data.draw(st.binary(min_size=1, max_size=40)))


@settings(max_examples=1000)
@given(flips=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4), in_header=st.booleans())
def test_flipped_bits_never_crash(tmp_path: Path, whole: bytes, flips: Any, in_header: bool) -> None:
    damaged = bytearray(whole)
    reach = 8 + int.from_bytes(whole[:8], "little") if in_header else len(whole)
    for flip in flips:
        bit = int(flip * reach * 8)
        damaged[bit // 8] ^= 1 << bit % 8
    _load_damaged(tmp_path / "run", bytes(damaged))


HUGE = (0, 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -1)


@settings(max_examples=500)
@given(data=st.data())
def test_lying_headers_are_refused(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    header, body = split(whole)
    names = [name for name in header if name != "__metadata__"]
    name = data.draw(st.sampled_from(names))
    numbers = st.one_of(st.sampled_from(HUGE), st.integers(-5, 200))
    what = data.draw(st.sampled_from(["shape", "data_offsets", "dtype", "name", "none", "twins", "length"]))
    entry = header[name]
    damaged = None
    if what in ("shape", "data_offsets"):
        old = list(entry[what])
        entry[what] = data.draw(st.lists(numbers, max_size=4))
        if entry[what] == old or (what == "shape" and name.endswith("/3") and entry[what] == [0, 3]):
            return
    elif what == "dtype":
        entry["dtype"] = data.draw(
            st.sampled_from(["F64", "F16", "BOOL", "I64", "F4", "C64", "?", "", None, 3, []])
        )
    elif what == "name":
        header[data.draw(st.text(max_size=10))] = header.pop(name)
    elif what == "none":
        del header[name]
    elif what == "twins":
        text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}" + "}"
        twice = struct.pack("<Q", len(text.encode())) + text.encode() + body
        _load_damaged(tmp_path / "run", twice)  # the library may take one of them
        return
    else:
        length = data.draw(st.sampled_from([n for n in HUGE if 0 <= n < 2**64]))
        damaged = struct.pack("<Q", length) + whole[8:]
    assert not _load_damaged(tmp_path / "run", join(header, body) if damaged is None else damaged)


def test_a_huge_file_that_holds_nothing_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "run"
    size = 2**36
    header = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    with path.open("wb") as file:
        file.write(join(header, b""))
        try:
            file.truncate(file.tell() + size)
        except OSError:
            pytest.skip("this file system has no sparse files")
    assert_refuses(path, trained(), "not written by fastadam.save")


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    optimizer = trained()
    fastadam.save(path, optimizer)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    optimizer.step(random_arrays(SHAPES, np.float32, 7))
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space left"):
                fastadam.save(path, optimizer)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fails_in_mid_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    fastadam.save(path, trained())
    monkeypatch.setattr(reading, "blocks", lambda shape, most: iter(()))
    with pytest.raises(OSError, match="the optimizer holds a part of it, so load a whole checkpoint"):
        fastadam.load(path, trained())
    monkeypatch.undo()
    optimizer = make(random_arrays(SHAPES, np.float32, 5))
    fastadam.load(path, optimizer)
    assert_same_state(snapshot(optimizer), snapshot(trained()))


def test_what_killed_saves_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    left = [tmp_path / f".run.{digit * 16}.tmp" for digit in "ab"]
    other = [tmp_path / name for name in (".run.tmp", ".other.aaaaaaaaaaaaaaaa.tmp", "run.aaaaaaaaaaaaaaaa.tmp")]
    for path in left + other:
        path.write_bytes(b"x")
    fd, in_use = writing.open_temporary(str(tmp_path / "run"))
    fastadam.save(tmp_path / "run", trained())
    assert set(tmp_path.iterdir()) == {tmp_path / "run", Path(in_use), *other}
    os.close(fd)
    fastadam.save(tmp_path / "run", trained())
    assert set(tmp_path.iterdir()) == {tmp_path / "run", *other}


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "run", tmp_path / "link"
    fastadam.save(path, trained())
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    link.symlink_to(path)
    before = path.stat().st_ino
    fastadam.save(link, trained())
    assert link.is_symlink()
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere file names must be UTF-8")
    path = tmp_path / os.fsdecode(b"\xff\xfe run")
    fastadam.save(path, trained(), extra={"a": 1})
    assert fastadam.load(path, trained()) == {"a": 1}


def test_a_load_under_way_goes_on_with_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system cannot open an open file once more")
    path = tmp_path / "run"
    first, later = trained(), trained(steps=5)
    fastadam.save(path, first)
    monkeypatch.setattr(reading, "WINDOW", 1)
    blocks = reading.blocks

    def replace(shape: Any, most: int) -> Any:
        fastadam.save(path, later)
        return blocks(shape, most)

    monkeypatch.setattr(reading, "blocks", replace)
    optimizer = make(random_arrays(SHAPES, np.float32, 5))
    fastadam.load(path, optimizer)
    assert_same_state(snapshot(optimizer), snapshot(first))


def test_saves_wait_for_steps_of_other_threads(tmp_path: Path) -> None:
    optimizer = fastadam.Adam([np.zeros(50_000), np.zeros(3)])
    grads = [np.ones(50_000), np.ones(3)]
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            optimizer.step(grads)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(20):
            fastadam.save(tmp_path / "run", optimizer)
            again = fastadam.Adam([np.zeros(50_000), np.zeros(3)])
            fastadam.load(tmp_path / "run", again)
            params = again.param_groups[0]["params"]
            assert len({param[0] for param in params}) == 1  # all from one and the same step
            assert all((param == param[0]).all() for param in params)
    finally:
        stop.set()
        thread.join()


def test_a_step_under_way_refuses(tmp_path: Path) -> None:
    refused = []

    def schedule(step: int) -> float:
        for call in (fastadam.save, fastadam.load):
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way") as error:
                call(tmp_path / "run", optimizer)
            refused.append(str(error.value))
        return 0.1

    optimizer = fastadam.Adam(np.ones(2), lr=0.1)
    fastadam.save(tmp_path / "run", optimizer)
    optimizer.param_groups[0]["lr"] = schedule
    optimizer.step(np.ones(2))
    assert {message.partition(" ")[0] for message in refused} == {"save", "load"}


def test_a_progress_bar_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    optimizer = trained()
    fastadam.save(tmp_path / "run", optimizer)
    fastadam.load(tmp_path / "run", optimizer)
    assert capsys.readouterr().err == ""
    fastadam.save(tmp_path / "run", optimizer, progress=True)
    fastadam.load(tmp_path / "run", optimizer, progress=True)
    shown = capsys.readouterr().err
    for what in ("saving: 100%", "loading: 100%"):
        assert what in shown


@pytest.mark.parametrize(("missing", "progress"), [("safetensors", False), ("tqdm", True)])
def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, progress: bool
) -> None:
    optimizer = trained()
    fastadam.save(tmp_path / "run", optimizer)
    monkeypatch.setitem(sys.modules, missing, None)
    for call in (fastadam.save, fastadam.load):
        with pytest.raises(ImportError, match=f"pip install {missing}"):
            call(tmp_path / "run", optimizer, progress=progress)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_torch_optimizers_are_sent_to_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got SGD; for a torch optimizer, use torch\.save"):
        fastadam.save(tmp_path / "run", torch.optim.SGD([torch.ones(1)], lr=1.0))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is in other units")
def test_saving_and_loading_take_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.big_checkpoint", "--gigabytes", "0.34", "--folder", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr + run.stdout


@pytest.mark.slow
def test_killed_runs_that_are_resumed_give_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    assert kill_checkpoint.survive(kills=8, folder=tmp_path, seed=1) == 8


def test_fuzzed_files_load_whole_or_not_at_all() -> None:
    """In a process of its own, with a limit on its memory; see tests/fuzz_checkpoint.py."""
    command = [sys.executable, "-m", "tests.fuzz_checkpoint", "--files", "300", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "300 files" in done.stdout
