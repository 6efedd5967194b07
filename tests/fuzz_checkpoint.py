"""Damaged and lying checkpoint files: `python -m tests.fuzz_checkpoint --minutes 10` tries them for that long.

Each file is one that `save` wrote, changed at random: cut, lengthened, bits flipped, or its header taken apart and
put together with other lengths, offsets, shapes, names or options. `load` must refuse it with a ValueError and
change nothing, or load all of it. The process may use little more memory than it has at the start; a crash ends
the script.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import tempfile
import time
import tracemalloc
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import fastadam
from tests.support.bits import assert_same_bits, assert_same_state, snapshot

MOST_MEMORY = 8 << 20  # bytes that a load may allocate; the files have a few kilobytes
ODD: list[Any] = [
    -1,
    0,
    1,
    7,
    2**31,
    2**53,
    2**63 - 1,
    2**64,
    -(2**63),
    1e308,
    0.5,
    None,
    True,
    "",
    "F64",
    "F32",
    "BF16",
    "\u0000",
    "param/w",
    [],
    {},
    [0, 0],
    [-8, 8],
    [2**40, 2**40],
    [1] * 100,
]


def make(seed: int) -> fastadam.Adam:
    """Return an optimizer in mid-training over named arrays of several dtypes."""
    rng = np.random.default_rng(seed)
    named = {
        "w": rng.standard_normal((3, 5)),
        "b": np.ones(4, np.float32),
        "s": np.array(1.0),
        "z": np.zeros(2, "c8"),
    }
    opt = fastadam.Adam(named, amsgrad=True, backend="numpy")
    for _ in range(2):
        opt.step(
            {name: np.asarray(rng.standard_normal(array.shape), array.dtype) for name, array in named.items()}
        )
    return opt


class Fuzzer:
    """Changes a file at random."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, items: Any) -> Any:
        """Return one of a sequence's items."""
        return items[int(self.rng.integers(len(items)))]

    def change(self, whole: bytes) -> bytes:
        """Return another file."""
        length = int.from_bytes(whole[:8], "little")
        kind = self.pick(
            ["cut", "longer", "flip", "flip header", "length", "deep", "json", "json", "json", "text"]
        )
        if kind == "cut":
            return whole[: int(self.rng.integers(len(whole)))]
        if kind == "longer":
            return whole + self.rng.bytes(int(self.rng.integers(1, 100)))
        if kind in ("flip", "flip header"):
            changed = bytearray(whole)
            for _ in range(int(self.rng.integers(1, 9))):
                place = int(self.rng.integers(8 + length if kind == "flip header" else len(whole)))
                changed[place] ^= 1 << int(self.rng.integers(8))
            return bytes(changed)
        if kind == "length":
            lie = self.pick([0, 1, length - 1, length + 1, len(whole), 2**31, 2**40, 2**63, 2**64 - 1])
            return lie.to_bytes(8, "little") + whole[8:]
        text = whole[8 : 8 + length].decode()
        if kind == "deep":
            nested = "[" * 10_000 + "]" * 10_000
            place = self.pick(["__metadata__", "param/w"])
            return self._put(text[:-1].rstrip().rstrip("}") + f'}},"{place}":{nested}}}', whole, length)
        if kind == "text":  # cut and repeat pieces of it: duplicate keys, missing brackets
            a, b, c = sorted(int(i) for i in self.rng.integers(len(text), size=3))
            return self._put(text[:b] + text[a:c] + text[c:], whole, length)
        header = json.loads(text)
        for _ in range(int(self.rng.integers(1, 4))):
            if self.rng.random() < 0.5:
                metadata = header.get("__metadata__")
                if isinstance(metadata, dict) and isinstance(metadata.get("param_groups"), str):
                    with contextlib.suppress(ValueError):  # it was exchanged for other text already
                        inner = json.loads(metadata["param_groups"])
                        self._disturb(inner)
                        metadata["param_groups"] = json.dumps(inner)
                    continue
            self._disturb(header)
        return self._put(json.dumps(header), whole, length)

    def _put(self, text: str, whole: bytes, length: int) -> bytes:
        header = text.encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + whole[8 + length :]

    def _disturb(self, tree: Any) -> None:
        """Exchange, drop, add or swap something somewhere in a tree of dicts and lists."""
        while isinstance(tree, dict | list):
            keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
            if not keys:
                return
            key = self.pick(keys)
            if isinstance(tree[key], dict | list) and tree[key] and self.rng.random() < 0.8:
                tree = tree[key]
                continue
            how = self.pick(["exchange", "exchange", "drop", "add", "swap"])
            if how == "exchange":
                tree[key] = self.pick(ODD)
            elif how == "drop":
                del tree[key]
            elif how == "swap":
                other = self.pick(keys)
                tree[key], tree[other] = tree[other], tree[key]
            elif isinstance(tree, dict):
                tree[self.pick(["x", "param/x", "exp_avg/w", "lr", "name", "params"])] = self.pick(ODD)
            else:
                tree.append(self.pick(ODD))
            return


def try_one(fuzzer: Fuzzer, whole: bytes, path: str) -> str:
    """Load a changed file; return what came of it."""
    with open(path, "wb") as file:
        file.write(fuzzer.change(whole))
    opt = make(1)
    before, groups = snapshot(opt), repr(opt)
    tracemalloc.start()
    try:
        fastadam.load(path, opt)
        outcome = "loaded"
    except ValueError:
        outcome = "refused"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_MEMORY, f"load took {peak} bytes"
    if outcome == "refused":
        assert_same_state(snapshot(opt), before)
        assert repr(opt) == groups
    else:
        tensors = load_file(path)
        for i, name in enumerate(("w", "b", "s", "z")):
            member = opt._groups[0].members[i]
            for kind, array in {"param": member.array, **opt.state.get(name, {})}.items():
                if f"{kind}/{name}" in tensors:
                    real = np.ascontiguousarray(array).view(member.array.real.dtype)
                    assert_same_bits(real.reshape(-1), tensors[f"{kind}/{name}"].reshape(-1), f"{kind}/{name}")
    opt.step({"w": None, "b": None, "s": np.array(1.0), "z": None})
    return outcome


def main() -> None:
    """Try files for as long, or as many, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--files", type=int, help="as many, however long it takes")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--memory", type=int, default=1024, help="MiB of addresses beyond those in use at the start"
    )
    arguments = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "little") if arguments.seed is None else arguments.seed
    fuzzer, counts = Fuzzer(seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file.safetensors")
        fastadam.save(path, make(0), extra={"epoch": 1})
        with open(path, "rb") as file:
            whole = file.read()
        fastadam.load(path, make(1))
        if os.path.exists("/proc/self/statm"):
            import resource

            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            most = used + (arguments.memory << 20)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        end = time.monotonic() + 60 * arguments.minutes
        while sum(counts.values()) < arguments.files if arguments.files else time.monotonic() < end:
            # Told beforehand: a crash leaves no time for it.
            if not sum(counts.values()) % 1000:
                print(f"seed {seed}, file {sum(counts.values())}", flush=True)
            counts[try_one(fuzzer, whole, path)] += 1
    print(f"seed {seed}: {sum(counts.values())} files, {dict(counts)}: all of one or nothing was loaded")


if __name__ == "__main__":
    main()
