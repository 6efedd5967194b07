"""Runs that are saved and loaded, and the bytes of their files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_state, random_arrays, snapshot

pytest.importorskip("safetensors")


LAYOUTS = ("in place", "packed", "objects", "named", "named and packed")
SHAPES: list[tuple[int, ...]] = [(4, 3), (), (9,), (0, 3), (2, 1, 3)]
ROOT = Path(__file__).parents[2]


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
