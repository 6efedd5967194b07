"""FSDP2, tensor parallelism, DDP, ZeRO, FSDP1 and their like, with our optimizer in torch's place."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.torch.distributed.launch import RANKS, names, value_of  # noqa: E402


@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize("name", names("engines"))
def test_on_several_processes(folder: Path, name: str, ranks: int) -> None:
    value_of(folder, "engines", name, ranks)
