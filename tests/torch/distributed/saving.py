"""Checkpoints of `torch.distributed.checkpoint`, to be loaded on another number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict

import fastadam.torch
from tests.torch.distributed.engines import sharded, train

STEPS, MORE = 4, 3
KINDS: dict[str, Any] = {"ours": fastadam.torch.AdamW, "theirs": torch.optim.AdamW}


def check_saving(folder: Path) -> dict[str, list[float]]:
    """Train and save, with our optimizer and with torch's, and return the losses of the steps after that."""
    losses = {}
    for name, kind in KINDS.items():
        model = sharded()
        optimizer = kind(model.parameters(), lr=1e-2)
        train(model, optimizer, STEPS, ours=name == "ours")
        parts = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        checkpoint.save(parts, checkpoint_id=folder / f"dcp-{name}")
        losses[name] = train(model, optimizer, MORE, start=STEPS, ours=name == "ours")
    return losses
