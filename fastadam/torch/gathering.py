"""Tensors of other rows: those that a selection keeps of one, and new ones behind them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array
from fastadam.memory.formats import Format
from fastadam.memory.structs import SCALE_BLOCK
from fastadam.step.compact import count_blocks
from fastadam.step.compact_arrays import decode_each, encode
from fastadam.torch.selection import Selection

# So many numbers of a moment in 8 bits are decoded at a time.
PIECE = 1 << 20


def rows(tensor: Tensor, selection: Selection, *, copies_parents: bool) -> Tensor:
    """Return a tensor of the selected rows.

    Parameters
    ----------
    tensor : Tensor
        Of shape (n, ...).
    selection : Selection
        With row numbers on the tensor's device.
    copies_parents : bool
        Whether new rows are copies of those that they are made from; else they are zeros.

    Returns
    -------
    Tensor
        A new one of shape (len(selection), ...), with its dimensions in the same order in memory.
    """
    made = _empty(tensor, len(selection))
    fill(made, tensor, selection, copies_parents=copies_parents)
    return made


def fill(made: Tensor, tensor: Tensor, selection: Selection, *, copies_parents: bool) -> None:
    """Write the selected rows of a tensor into another one of as many; see `rows`."""
    kept, new = made[: selection.n_kept], made[selection.n_kept :]
    if selection.kept is None:
        kept.copy_(tensor)
    else:
        torch.index_select(tensor, 0, selection.kept, out=kept)
    if copies_parents and selection.parents is not None:
        torch.index_select(tensor, 0, selection.parents, out=new)
    else:
        new.zero_()


def sparse_rows(grad: Tensor, selection: Selection) -> Tensor:
    """Return the selected rows of a gradient in COO format; new ones are not in it."""
    kept = grad if selection.kept is None else torch.index_select(grad, 0, selection.kept)
    size = (len(selection), *grad.shape[1:])
    indices, values = kept._indices().clone(), kept._values().clone()
    return torch.sparse_coo_tensor(indices, values, size, check_invariants=False, is_coalesced=kept.is_coalesced())


def _empty(tensor: Tensor, n: int) -> Tensor:
    """Return a new tensor of n rows, whose dimensions lie in memory in the order of another one's."""
    shape = (n, *tensor.shape[1:])
    if tensor.is_contiguous():
        return tensor.new_empty(shape)
    order = sorted(range(len(shape)), key=lambda axis: -tensor.stride(axis))  # stable
    made = tensor.new_empty([shape[axis] for axis in order])
    return made.permute([order.index(axis) for axis in range(len(shape))])


def blocks(codes: Tensor, scales: Tensor, number_format: Format, selection: Selection) -> tuple[Tensor, Tensor]:
    """Return the selected rows of a moment in 8 bits, and the scales of its blocks; new rows are zeros.

    A block whose numbers come from one block keeps their codes and their scale, so that they stay what they are.
    Others are decoded and encoded, to nearest.

    Parameters
    ----------
    codes : Tensor
        Contiguous, of shape (n, ...).
    scales : Tensor of float32
    number_format : Format
    selection : Selection
    """
    n, width = len(codes), math.prod(codes.shape[1:])
    if width % SCALE_BLOCK == 0:
        of_rows = scales.reshape(n, width // SCALE_BLOCK)
        return rows(codes, selection, copies_parents=False), rows(of_rows, selection, copies_parents=False).view(
            -1
        )
    made = torch.zeros((len(selection), *codes.shape[1:]), dtype=codes.dtype, device="cpu")
    made_scales = torch.zeros(count_blocks(made.numel()), dtype=torch.float32, device="cpu")
    source = np.arange(n) if selection.kept is None else selection.kept.cpu().numpy()
    old = codes.cpu().reshape(-1).numpy(), scales.cpu().reshape(-1).numpy()
    flat, flat_scales = made.view(-1).numpy(), made_scales.numpy()
    # Pieces begin where a row and a block do, behind the rows that stay where they are.
    together = SCALE_BLOCK // math.gcd(width, SCALE_BLOCK)
    moved = np.flatnonzero(source != np.arange(len(source)))
    start = int(moved[0] if len(moved) else len(source)) // together * together
    flat[: start * width] = old[0][: start * width]
    flat_scales[: start * width // SCALE_BLOCK] = old[1][: start * width // SCALE_BLOCK]
    each = max(together, PIECE // width // together * together)
    for low in range(start, len(source), each):
        high = min(low + each, len(selection))  # what is new in the last block is in its piece, too
        found, found_scales = _piece(old, source[low : low + each], high - low, width, number_format)
        flat[low * width : high * width] = found
        first = low * width // SCALE_BLOCK
        flat_scales[first : first + len(found_scales)] = found_scales
    return made.to(codes.device), made_scales.to(scales.device)


def _piece(
    old: tuple[Array, Array], source: Array, n: int, width: int, number_format: Format
) -> tuple[Array, Array]:
    """Return the codes of rows and their scales, for n rows of which the last ones may be new."""
    codes, scales = old
    size = n * width
    # The place of each number in the old array; -1 of those that are new, and of none at all, to fill a block.
    place = np.full(count_blocks(size) * SCALE_BLOCK, -1)
    np.add(source[:, None] * width, np.arange(width), out=place[: len(source) * width].reshape(-1, width))
    is_there = place >= 0
    block_of = np.where(is_there, place // SCALE_BLOCK, -1).reshape(-1, SCALE_BLOCK)
    highest = block_of.max(axis=1, keepdims=True)
    is_one = ((block_of == highest) | (block_of < 0)).all(axis=1)
    found = np.where(is_there, codes[place], codes.dtype.type(0)).reshape(-1, SCALE_BLOCK)
    found_scales = np.where(highest[:, 0] >= 0, scales[highest[:, 0]], np.float32(0))
    mixed = np.flatnonzero(~is_one)
    if len(mixed):
        there = block_of[mixed] >= 0
        each = decode_each(found[mixed], scales[block_of[mixed]], number_format)
        encoded, found_scales[mixed] = encode(np.where(there, each, np.float32(0)), number_format)
        found[mixed] = np.where(there, encoded, codes.dtype.type(0))
    return found.reshape(-1)[:size], found_scales
