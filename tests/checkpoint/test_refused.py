"""What does not fit is refused, and changes nothing: extras, options, parameters, files of other origin."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.checkpoint import writing

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

from tests.checkpoint.runs import assert_refuses, edit_groups, join, split, trained  # noqa: E402
from tests.support.bits import assert_same_bits  # noqa: E402


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


def test_a_file_of_another_dtype_is_loaded_after_following_the_message(tmp_path: Path) -> None:
    path = tmp_path / "run"
    saved = fastadam.Adam({"w": np.arange(3.0)})
    saved.step({"w": np.ones(3)})
    fastadam.save(path, saved)
    w = np.zeros(3, np.float32)
    assert_refuses(path, fastadam.Adam({"w": w}), "make the optimizer over parameters of .* dtypes in the file")
    w = w.astype(np.float64)
    optimizer = fastadam.Adam({"w": w})
    fastadam.load(path, optimizer)
    assert_same_bits(w, saved.param_groups[0]["params"][0])
    assert optimizer.state["w"]["step"] == 1


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
    assert_refuses(path, fastadam.Adam([{"params": np.ones(2)}, {"params": np.ones(2)}]), "1 parameter group,")
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
