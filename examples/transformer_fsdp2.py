"""Train a tiny transformer over several processes with FSDP2, save it, and go on over another number of them.

The model predicts the next character of a Python module. FSDP2 (``fully_shard``) leaves each process a part of
every parameter, its gradient and its moments; fastadam steps that part in one native call, and the norm that clips
the gradients is computed over all processes exactly, so that it does not depend on how many there are.

Needs fastadam and torch. Train on four processes, then go on with two, or with one::

    python -m torch.distributed.run --standalone --nproc-per-node 4 transformer_fsdp2.py --checkpoint run
    python -m torch.distributed.run --standalone --nproc-per-node 2 transformer_fsdp2.py --checkpoint run
    python transformer_fsdp2.py --checkpoint run
"""

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import fastadam.torch

LENGTH, WIDTH, HEADS, LAYERS = 64, 64, 4, 2
BATCH_SIZE = 32  # over all processes together
TEXT = Path(argparse.__file__).read_text(encoding="utf-8")
LETTERS = sorted(set(TEXT))


class Block(nn.Module):  # type: ignore[misc]
    """One block: attention to what came before, then a small network, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.before_attention, self.before_network = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the shape of `x`, (batch, length, width)."""
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        y = self.before_attention(x)
        x = x + self.attention(y, y, y, attn_mask=later, need_weights=False)[0]
        return x + self.network(self.before_network(x))


class Transformer(nn.Module):  # type: ignore[misc]
    """Returns a score for each letter that may come next, at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.scores = nn.Linear(WIDTH, len(LETTERS))

    def forward(self, text: Tensor) -> Tensor:
        """Return scores of shape (batch, length, letters) for `text` of shape (batch, length)."""
        x = self.letters(text) + self.places(torch.arange(text.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.scores(x).clone()  # no view: FSDP2 hangs what it does before the backward pass on it


def batch_of(step: int, rank: int, processes: int) -> Tensor:
    """Return this process' share of the batch of a step: the batch is the same for any number of processes."""
    numbers = torch.tensor([LETTERS.index(letter) for letter in TEXT[:20_000]])
    starts = torch.randint(len(numbers) - LENGTH, (BATCH_SIZE,), generator=torch.Generator().manual_seed(step))
    return torch.stack([numbers[start : start + LENGTH + 1] for start in starts.tolist()])[rank::processes]


def train(steps: int, folder: Path | None) -> float:
    """Train, from a checkpoint if there is one, and save another; return the mean loss of the last ten steps."""
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)
    model = Transformer()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = fastadam.torch.AdamW(model.parameters(), lr=3e-3, max_grad_norm=1.0)
    start = 0
    if folder is not None and folder.exists():
        weights, state = get_state_dict(model, optimizer)
        saved = {"model": weights, "optimizer": state, "steps": start}
        checkpoint.load(saved, checkpoint_id=folder)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=saved["optimizer"])
        start = saved["steps"]
    losses: list[float] = []
    for step in range(start, start + steps):
        text = batch_of(step, rank, processes)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        distributed.all_reduce(mean)
        losses.append(float(mean) / processes)
        if rank == 0 and (step + 1) % 20 == 0:
            norm = optimizer.grad_norm
            print(f"step {step + 1}: loss {losses[-1]:.3f}, norm of the gradients {norm:.3f}", flush=True)
    if folder is not None:
        weights, state = get_state_dict(model, optimizer)
        saved = {"model": weights, "optimizer": state, "steps": start + steps}
        checkpoint.save(saved, storage_writer=checkpoint.FileSystemWriter(folder, overwrite=True))
    return sum(losses[-10:]) / len(losses[-10:])


def main() -> None:
    """Read the arguments, meet the other processes, and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="how many more steps to take")
    parser.add_argument("--checkpoint", type=Path, help="folder to go on from, if it is there, and to save to")
    given = parser.parse_args()
    if "RANK" in os.environ:  # started by torch.distributed.run
        distributed.init_process_group("gloo")
    else:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    loss = train(given.steps, given.checkpoint)
    if distributed.get_rank() == 0:
        print(f"loss of the last steps: {loss:.3f}")
    distributed.barrier()  # so that none is gone while others still hear from it
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
