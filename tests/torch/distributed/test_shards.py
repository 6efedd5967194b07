"""DTensors: steps over shards have the bits of one process, and all else is as with plain tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.torch.distributed.launch import RANKS, names, same_bits, value_of  # noqa: E402

OF_STEPS = ("steps_have_the_bits_of_one_process", "beside_plain_tensors")


def assert_same(first: Any, second: Any, what: str) -> None:
    assert len(first) == len(second) > 0, what
    for one, other in zip(first, second, strict=True):
        assert same_bits(one, other), what


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", names("shards"))
def test_on_several_processes(folder: Path, name: str, ranks: int) -> None:
    value_of(folder, "shards", name, ranks)


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_the_bits_do_not_depend_on_the_number_of_processes(folder: Path, ranks: int) -> None:
    for name in OF_STEPS:
        one, several = (value_of(folder, "shards", name, each) for each in (1, ranks))
        assert one.keys() == several.keys()
        for what in one:
            assert_same(one[what], several[what], f"{name}, {what}")
    assert_same(*(value_of(folder, "shards", "clipping_apart", each) for each in (1, ranks)), "clipped gradients")


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", OF_STEPS)
def test_they_are_those_of_plain_tensors(folder: Path, name: str, ranks: int) -> None:
    """But where gradients are clipped: the norm of those that are shared out is computed otherwise."""
    plain = value_of(folder, "shards", "plain_tensors", ranks)
    for what, found in value_of(folder, "shards", name, ranks).items():
        if not what.startswith("clipped"):
            assert_same(found, plain[what], what)


@pytest.mark.parametrize("name", names("meshes"))
def test_on_meshes_of_two_dimensions(folder: Path, name: str) -> None:
    found = value_of(folder, "meshes", name, 4)
    one = value_of(folder, "shards", "steps_have_the_bits_of_one_process", 1)
    for what in found or ():
        assert_same(found[what], one[what], what)
