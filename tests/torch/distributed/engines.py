"""Checks of what shares out training: FSDP2, tensor parallelism, DDP, ZeRO, FSDP1 and their like."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer, _apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel

import fastadam.torch
from tests.torch.distributed.launch import same
from tests.torch.distributed.shards import everything

TOKENS, LENGTH, WIDTH = 11, 6, 16


class Block(nn.Module):
    """One block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(torch.relu(self.up(self.second(x))))


class Transformer(nn.Module):
    """A tiny one that predicts the next token; the same on each process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def loss_of(model: Callable[[Tensor], Tensor], step: int) -> Tensor:
    """Return the loss over a batch that is the same on each process."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(TOKENS, (4, LENGTH + 1), generator=generator).cumsum(1) % TOKENS
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(
    model: Any,
    optimizer: Any,
    steps: int,
    start: int = 0,
    ours: bool = True,
    clip: Callable[[Any, float], object] | None = None,
) -> list[float]:
    """Train for some steps, with `clip` between gradients and step, and return the losses."""
    losses = []
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        if clip is not None:
            clip(model.parameters(), 0.3)
        optimizer.step()
        if ours:
            assert optimizer.last_step == "fastadam", optimizer.last_step
        losses.append(loss.item())
    return losses


def alone(steps: int, **options: Any) -> list[float]:
    """Return the losses of one process, with torch's own optimizer."""
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **options)
    return train(model, optimizer, steps, ours=False)


def close(ours: list[float], theirs: list[float]) -> None:
    """Check that losses are the same to 1e-5."""
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=1e-5)


def sharded(**options: Any) -> Transformer:
    """Return the transformer under FSDP2."""
    model = Transformer()
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def check_fsdp2(folder: Path) -> None:
    """50 steps are those of torch's AdamW on one process; resharded after the forward pass or not."""
    theirs = alone(50)
    model = sharded()
    close(train(model, fastadam.torch.AdamW(model.parameters(), lr=1e-2), 50), theirs)
    for options in ({"reshard_after_forward": False}, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}):
        model = sharded(**options)
        close(train(model, fastadam.torch.AdamW(model.parameters(), lr=1e-2), 5), theirs[:5])


def check_fsdp2_clipped(folder: Path) -> None:
    """Clipped within the step, and apart from it, as torch clips."""
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    theirs = train(model, optimizer, 10, ours=False, clip=torch.nn.utils.clip_grad_norm_)
    model = sharded()
    close(train(model, fastadam.torch.AdamW(model.parameters(), lr=1e-2, max_grad_norm=0.3), 10), theirs)
    model = sharded()
    optimizer = fastadam.torch.AdamW(model.parameters(), lr=1e-2)
    close(train(model, optimizer, 10, clip=fastadam.torch.clip_grad_norm_), theirs)


def check_fsdp2_in_bfloat16(folder: Path) -> None:
    """Compute in bfloat16, and step in float32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    losses = []
    for kind in (fastadam.torch.AdamW, torch.optim.AdamW):
        model = sharded(mp_policy=policy)
        losses.append(train(model, kind(model.parameters(), lr=1e-2), 10, ours=kind is not torch.optim.AdamW))
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=0.02, atol=0)


def check_state_dicts_of_torch_distributed(folder: Path) -> None:
    """With every option; what fills an empty optimizer before it loads is harmless."""
    options = [
        StateDictOptions(),
        StateDictOptions(full_state_dict=True),
        StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True),
        StateDictOptions(flatten_optimizer_state_dict=True),
    ]
    model = sharded()
    optimizer = fastadam.torch.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    before = [param.full_tensor().clone() for param in model.parameters()]
    get_optimizer_state_dict(model, optimizer)
    assert all(
        torch.equal(one.full_tensor(), other) for one, other in zip(model.parameters(), before, strict=True)
    )
    train(model, optimizer, 3)
    expected = everything(optimizer)
    for each in options:
        saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=each))
        for kind in (fastadam.torch.AdamW, torch.optim.AdamW):
            other = sharded()
            with torch.no_grad():
                for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
                    mine.copy_(theirs)
            again = kind(other.parameters(), lr=1e-3)
            set_optimizer_state_dict(other, again, copy.deepcopy(saved), options=each)
            assert again.param_groups[0]["lr"] == 1e-2
            assert same(everything(again), expected), each


def check_ddp(folder: Path) -> None:
    """Every process has all of the model, and the same gradients."""
    model = DistributedDataParallel(Transformer())
    optimizer = fastadam.torch.AdamW(model.parameters(), lr=1e-2)
    close(train(model, optimizer, 10), alone(10))


def check_zero_redundancy(folder: Path) -> None:
    """Each process steps a part of the parameters; the state is put together again."""
    model = DistributedDataParallel(Transformer())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), fastadam.torch.AdamW, lr=1e-2)
    close(train(model, optimizer, 10, ours=False), alone(10))
    assert optimizer.optim.last_step == "fastadam"
    optimizer.consolidate_state_dict(to=0)
    if distributed.get_rank() == 0:
        saved = optimizer.state_dict()
        other = Transformer()
        again = torch.optim.AdamW(other.parameters(), lr=1e-2)
        again.load_state_dict(saved)
        assert all(int(again.state[param]["step"]) == 10 for param in other.parameters())


def check_fsdp1(folder: Path) -> None:
    """Use the first generation of FSDP, whose flat parameters are plain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(Transformer(), use_orig_params=True, device_id=torch.device("cpu"))
        optimizer = fastadam.torch.AdamW(model.parameters(), lr=1e-2)
        close(train(model, optimizer, 10), alone(10))
        saved = FullyShardedDataParallel.optim_state_dict(model, optimizer)
        loadable = FullyShardedDataParallel.optim_state_dict_to_load(model, optimizer, saved)
        optimizer.load_state_dict(loadable)
        train(model, optimizer, 2, start=10)


def check_in_the_backward_pass(folder: Path) -> None:
    """Step each parameter with an optimizer of its own, as soon as its gradient is there."""
    model = Transformer()
    _apply_optimizer_in_backward(fastadam.torch.AdamW, model.parameters(), {"lr": 1e-2})
    losses = []
    for step in range(10):
        loss = loss_of(model, step)
        loss.backward()
        losses.append(loss.item())
    close(losses, alone(10))


def check_join(folder: Path) -> None:
    """Let processes with different numbers of batches wait for each other, as with torch's optimizer."""
    rank = distributed.get_rank()
    trained = []
    for kind in (fastadam.torch.AdamW, torch.optim.AdamW):
        model = DistributedDataParallel(Transformer())
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), kind, lr=1e-2, eps=1e-4
        )  # some gradients are noise
        with Join([model, optimizer]):
            for step in range(3 + rank):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                optimizer.step()
        found = [param.detach().clone() for param in model.parameters()]
        first = [param.clone() for param in found]
        for param in first:
            distributed.broadcast(param, 0)
        assert same(found, first)
        trained.append(found)
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
