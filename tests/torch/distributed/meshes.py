"""Checks on meshes of two dimensions, for which there have to be four processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastadam.torch
from tests.torch.distributed.engines import Transformer, alone, close, train
from tests.torch.distributed.launch import same
from tests.torch.distributed.shards import OPTIONS, everything, placed, trained


def check_two_dimensions(folder: Path) -> Any:
    """Use a mesh of two dimensions: copies of shards, and shards of shards."""
    on = init_device_mesh("cpu", (2, 2))
    found = {}
    for name, options in OPTIONS.items():
        for placements in ([Replicate(), Shard(0)], [Shard(0), Replicate()], [Shard(0), Shard(0)]):
            now = trained(placed(torch.float32, lambda _, same=placements: same, on), **options)
            first = found.setdefault(f"{name} {torch.float32}", now)
            assert same(first, now), placements
    return found


def check_tensor_parallel(folder: Path) -> None:
    """By columns and rows, alone and within FSDP2, beside parameters that are plain."""
    theirs = alone(10)
    size = distributed.get_world_size()
    for shape in {(1, size), (max(1, size // 2), min(2, size))}:
        both = init_device_mesh("cpu", shape, mesh_dim_names=("data", "model"))
        model = Transformer()
        for block in model.blocks:
            parallelize_module(block, both["model"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
            if shape[0] > 1:
                fully_shard(block, mesh=both["data"])
        if shape[0] > 1:
            fully_shard(model, mesh=both["data"])
        optimizer = fastadam.torch.AdamW(model.parameters(), lr=1e-2)
        close(train(model, optimizer, 10), theirs)
        everything(optimizer)
