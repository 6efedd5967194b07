"""Files of torch that were damaged: whatever is taken from one, torch.load takes as the same numbers."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import convert
from tests.support.bits import assert_same_bits

torch = pytest.importorskip("torch")

SIZE = 6
Records = list[tuple[str, bytes]]


def whole() -> bytes:
    tensors = [torch.ones(SIZE, requires_grad=True), torch.ones(2, 3, requires_grad=True)]
    optimizer = torch.optim.Adam(tensors, lr=0.1)
    for tensor in tensors:
        tensor.grad = torch.full_like(tensor, 0.5)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    return file.getvalue()


def records(file: bytes) -> Records:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def archive(of: Records) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:
        for name, content in of:
            out.writestr(name, content)
    return file.getvalue()


def damaged(file: bytes, luck: random.Random) -> bytes:
    """Damage a record, the list of records, the pickle's numbers or any bytes."""
    kind = luck.choice(["shorter", "longer", "order", "pickle", "twice", "lost", "torn", "bytes"])
    if kind == "torn":
        return file[: luck.randrange(len(file))]
    if kind == "bytes":
        changed = bytearray(file)
        for _ in range(luck.choice([1, 3])):
            changed[luck.randrange(len(changed))] = luck.randrange(256)
        return bytes(changed)
    found = records(file)
    at = luck.randrange(len(found))
    if kind in ("shorter", "longer"):
        at = luck.choice([i for i, (name, _) in enumerate(found) if "/data/" in name])
    name, content = found[at]
    if kind == "shorter":
        found[at] = name, content[: luck.randrange(len(content))]
    elif kind == "longer":
        found[at] = name, content + bytes(luck.randrange(1, 9))
    elif kind == "order":
        found = [(name, b"big" if name.endswith("byteorder") else content) for name, content in found]
    elif kind == "pickle":  # sizes, strides and offsets are small numbers: BININT1 and its argument
        at, pickled = next((i, c) for i, (name, c) in enumerate(found) if name.endswith("data.pkl"))
        places = [i for i in range(len(pickled) - 1) if pickled[i : i + 1] == b"K"]
        changed = bytearray(pickled)
        changed[luck.choice(places) + 1] = luck.choice([0, 1, 2, 3, 5, 7, 12, 255])
        found[at] = found[at][0], bytes(changed)
    elif kind == "twice":
        found.append((name, bytes(len(content))))
    else:
        del found[at]
    return archive(found)


def ours() -> fastadam.Adam:
    return fastadam.Adam([np.ones(SIZE, np.float32), np.ones((2, 3), np.float32)])


def moments(opt: fastadam.Adam) -> dict[str, Any]:
    return {
        f"{i} {name}": value for i, entry in opt.state_dict()["state"].items() for name, value in entry.items()
    }


@pytest.mark.filterwarnings("ignore")
def test_what_is_taken_from_a_damaged_file_torch_takes_too(tmp_path: Path) -> None:
    path, file = tmp_path / "state.pt", whole()
    verdicts = set()
    for seed in range(400):
        path.write_bytes(damaged(file, random.Random(seed)))
        opt = ours()
        try:
            convert.from_torch(path, opt)
        except (TypeError, ValueError, RuntimeError):
            verdicts.add("refused")
            assert not moments(opt), seed
            continue
        verdicts.add("taken")
        theirs = torch.load(path, weights_only=True)["state"]  # raises where the file should have been refused
        for i, entry in opt.state_dict()["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                assert_same_bits(entry[name], theirs[i][name].numpy())
    assert verdicts == {"taken", "refused"}


@pytest.mark.parametrize("length", [0, 4, 23])
def test_records_shorter_than_their_storages_are_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(archive([(n, c[:length] if "/data/" in n else c) for n, c in records(whole())]))
    opt = ours()
    with pytest.raises(ValueError, match="cannot be read as one that"):
        convert.from_torch(path, opt)
    assert not moments(opt)
