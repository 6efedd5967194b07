"""Checkpoints that were saved on another number of processes; see `saving`."""

from __future__ import annotations

from pathlib import Path

from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from tests.torch.distributed.engines import sharded, train
from tests.torch.distributed.saving import KINDS, MORE, STEPS


def check_loading(folder: Path) -> dict[str, list[float]]:
    """Go on from each checkpoint with each optimizer, and return the losses."""
    losses = {}
    for saved in KINDS:
        for name, kind in KINDS.items():
            model = sharded()
            optimizer = kind(model.parameters(), lr=1e-3)
            parts = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
            checkpoint.load(parts, checkpoint_id=folder / f"dcp-{saved}")
            set_state_dict(model, optimizer, model_state_dict=parts["model"], optim_state_dict=parts["optimizer"])
            assert optimizer.param_groups[0]["lr"] == 1e-2
            assert all(int(state["step"]) == STEPS for state in optimizer.state.values())
            losses[f"{saved} by {name}"] = train(model, optimizer, MORE, start=STEPS, ours=name == "ours")
    return losses
