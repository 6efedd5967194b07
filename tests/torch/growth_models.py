"""What the tests of growth hold against it: rows put together one by one, and an optimizer made anew of them."""

from __future__ import annotations

import math
from typing import Any

import torch

import fastadam.torch
from fastadam.step.compact_arrays import decode, encode
from fastadam.torch.compact import BLOCKS
from tests.support.torch_cases import Parameter, Tensor, assert_same_bits, give_grads, members, params

BLOCK = 64
CODES = {name: f"{name}_scale" for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}


def gathered(tensor: Tensor, rows: list[int | None]) -> Tensor:
    """Return rows of a tensor, zeros where they are None."""
    tensor = tensor.detach().resolve_conj()
    each = [torch.zeros(tensor.shape[1:], dtype=tensor.dtype) if row is None else tensor[row] for row in rows]
    return torch.stack(each) if each else tensor[:0].clone()


def gathered_codes(codes: Tensor, scales: Tensor, rows: list[int | None]) -> tuple[Tensor, Tensor]:
    """Return rows of codes, and the scales of their blocks, block by block and number by number."""
    width = math.prod(codes.shape[1:])
    flat, number_format = codes.reshape(-1), BLOCKS[codes.dtype]
    places = [None if row is None else row * width + j for row in rows for j in range(width)]
    made = torch.zeros(len(places), dtype=codes.dtype)
    made_scales = []
    for low in range(0, len(places), BLOCK):
        block = places[low : low + BLOCK]
        there = [(i, place) for i, place in enumerate(block) if place is not None]
        sources = sorted({place // BLOCK for _, place in there})
        if len(sources) <= 1:
            for i, place in there:
                made[low + i] = flat[place]
            made_scales.append(float(scales[sources[0]]) if sources else 0.0)
            continue
        numbers = torch.zeros(len(block))
        for i, place in there:
            one = flat[place : place + 1].numpy(), scales[place // BLOCK].reshape(1).numpy()
            numbers[i] = torch.from_numpy(decode(*one, number_format))[0]
        encoded, scale = encode(numbers.numpy(), number_format)
        assert scale is not None
        for i, _ in there:
            made[low + i] = int(encoded[i])
        made_scales.append(float(scale[0]))
    return made.reshape(len(rows), *codes.shape[1:]), torch.tensor(made_scales, dtype=torch.float32)


class Model:
    """An optimizer that is made anew, and loaded with what it is to have, whenever something changes size.

    Parameters
    ----------
    adam : type
    groups : list of (list of Tensor, dict)
        Parameters and options of each group.
    options : dict
        Of the optimizer.
    """

    def __init__(
        self, adam: type, groups: list[tuple[list[Tensor], dict[str, Any]]], options: dict[str, Any]
    ) -> None:
        self.adam, self.options = adam, options
        self.groups = [([each.detach().clone() for each in params], own) for params, own in groups]
        self.optimizer: Any = None
        self.make([[None] * len(params) for params, _ in self.groups])

    def make(self, entries: list[list[Any]]) -> None:
        """Make the optimizer anew, with these entries of its state."""
        self.optimizer = self.adam(
            [{"params": [Parameter(each.clone()) for each in params], **own} for params, own in self.groups],
            **self.options,
        )
        found = [entry for each in entries for entry in each]
        state = {i: entry for i, entry in enumerate(found) if entry is not None}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def taken(self) -> list[list[Any]]:
        """Take over the parameters from the optimizer, and return the entries of its state."""
        state = self.optimizer.state_dict()["state"]
        numbers = iter(range(len(members(self.optimizer))))
        found = []
        for k, group in enumerate(self.optimizer.param_groups):
            self.groups[k] = [each.detach().clone() for each in group["params"]], self.groups[k][1]
            found.append([state.get(next(numbers)) for _ in group["params"]])
        return found

    def resize(self, group: int, index: int, kept: list[int], parents: list[int | None]) -> None:
        """Give a parameter other rows."""
        entries = self.taken()
        copies: list[int | None] = [*kept, *parents]
        zeros: list[int | None] = [*kept, *(None for _ in parents)]
        params = self.groups[group][0]
        old = entries[group][index]
        params[index] = gathered(params[index], copies)
        if old is not None:
            new: dict[str, Any] = {}
            for name, value in old.items():
                if name in CODES and value.dtype in BLOCKS:
                    new[name], new[CODES[name]] = gathered_codes(value, old[CODES[name]], zeros)
                elif name not in (*CODES.values(), "step"):
                    new[name] = gathered(value, zeros if name in CODES else copies)
                elif name == "step":
                    new[name] = value.clone()
            entries[group][index] = new
        self.make(entries)

    def reset(self, group: int, index: int) -> None:
        """Let a parameter start anew."""
        entries = self.taken()
        entries[group][index] = None
        self.make(entries)

    def remove(self, group: int) -> None:
        """Take a group away."""
        entries = self.taken()
        del self.groups[group], entries[group]
        self.make(entries)

    def add(self, params: list[Tensor], own: dict[str, Any]) -> None:
        """Add a group."""
        entries = self.taken()
        self.groups.append(([each.detach().clone() for each in params], own))
        self.make([*entries, [None] * len(params)])


def assert_same(ours: Any, model: Any, what: str = "") -> None:
    """Fail unless two optimizers have the same bits everywhere."""
    assert len(ours.param_groups) == len(model.param_groups)
    assert len(ours.state) == len(model.state), what
    for i, (a, b) in enumerate(zip(members(ours), members(model), strict=True)):
        assert_same_bits(a, b, f"{what}: parameter {i}")
        assert (a in ours.state) == (b in model.state), f"{what}: state of parameter {i}"
        found, wanted = ours.state.get(a, {}), model.state.get(b, {})
        assert found.keys() == wanted.keys(), f"{what}: state of parameter {i}"
        for name in wanted:
            assert_same_bits(found[name], wanted[name], f"{what}: {name} of parameter {i}")
    assert len(ours.ema) == len(model.ema)
    for i, (a, b) in enumerate(zip(ours.ema.values(), model.ema.values(), strict=True)):
        assert_same_bits(a, b, f"{what}: average {i}")


def tall(**settings: Any) -> tuple[Any, Any, Any]:
    """Return an optimizer that was stepped, and its parameters of shapes (6, 2) and (3,)."""
    both = params((6, 2), (3,))
    optimizer = fastadam.torch.Adam(both, lr=0.1, **settings)
    for step in range(3):
        give_grads(optimizer, step)
        optimizer.step()
    return optimizer, *both
