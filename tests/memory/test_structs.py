"""The memory that Python and native code share: the table, the C header, and structs that keep arrays alive."""

from __future__ import annotations

import importlib.util
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastadam.backends import c
from fastadam.memory import native, structs
from fastadam.memory.arrays import address
from fastadam.memory.native import Block
from fastadam.memory.structs import PLAN, SPAN
from tests.conftest import AVAILABLE, STATES

CEXT = Path(__file__).parents[2] / "cext"


def test_the_header_is_what_the_table_says() -> None:
    if not CEXT.exists():
        pytest.skip("an installed package has no C source beside it")
    spec = importlib.util.spec_from_file_location("header", CEXT / "header.py")
    assert spec is not None
    assert spec.loader is not None
    header = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(header)
    for path, text in header.texts().items():
        assert path.read_text() == text, "run: python cext/header.py --write"


@pytest.mark.skipif("c" not in AVAILABLE, reason=STATES["c"])
def test_the_extension_knows_every_constant() -> None:
    for constants in native.CONSTANTS:
        for name, value in constants.values.items():
            assert getattr(c.lib, f"FASTADAM_{name}") == value


@pytest.mark.parametrize("struct", native.TABLE.values(), ids=native.TABLE)
def test_structs_are_words_without_gaps(struct: native.Struct) -> None:
    assert struct.dtype.itemsize == sum(field.length * field.type.itemsize for field in struct.fields)
    assert all(field.type.itemsize % 8 == 0 for field in struct.fields)


def test_blocks_and_chunks_fit_each_other() -> None:
    assert structs.BLOCK & (structs.BLOCK - 1) == 0
    assert structs.BLOCK % structs.CHUNK == 0


def test_a_block_keeps_alive_what_it_points_at() -> None:
    block = Block(PLAN)
    spans = np.zeros(3, SPAN.dtype)
    block.point("spans", spans)
    assert block["spans"] == address(spans)
    watched = weakref.ref(spans)
    twin = block.twin()
    assert twin["spans"] == address(spans)
    del spans
    assert watched() is not None
    block.point("spans", np.zeros(1, SPAN.dtype))
    assert watched() is not None, "the twin points at it"
    twin.point("spans", np.zeros(1, SPAN.dtype))
    assert watched() is None


@pytest.mark.parametrize(
    ("name", "array", "error", "message"),
    [
        ("spans", np.zeros(2), TypeError, r"plan.spans points to .*, not to float64"),
        ("written_starts", np.zeros(4, np.int32), TypeError, "plan.written_starts points to int64, not to int32"),
        (
            "written_starts",
            np.zeros(4, np.int64)[::2],
            ValueError,
            r"needs a C-contiguous array, got strides \(16,\)",
        ),
        ("n_spans", np.zeros(2, np.int64), KeyError, "n_spans"),
    ],
)
def test_a_block_refuses_what_native_code_would_misread(
    name: str, array: Any, error: type[Exception], message: str
) -> None:
    block = Block(PLAN)
    with pytest.raises(error, match=message):
        block.point(name, array)
    assert block.values == np.zeros((), PLAN.dtype)


def test_addresses_of_arrays_are_not_set_as_numbers() -> None:
    block = Block(PLAN)
    with pytest.raises(TypeError, match=r"plan\.rows is the address of an array; set it with point"):
        block["rows"] = 4096
    block["n_batches"] = 3
    assert block["n_batches"] == 3
