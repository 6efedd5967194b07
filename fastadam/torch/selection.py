"""Which rows a parameter of another size has: those that stay, in an order, and the new ones behind them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_INTEGERS = "a whole number, or row numbers"


class Selection:
    """The rows of a parameter that is to get another size, checked.

    Parameters
    ----------
    keep : 1-D sequence of int, 1-D mask of bool, or None
        Which rows stay, in this order; None keeps all.
    grow : int or 1-D sequence of int
        How many new rows come behind them, or the row that each one is made from.
    n : int
        How many rows there are.

    Attributes
    ----------
    kept : Tensor of int64 or None
        The rows that stay; None where all do, in their order. Nobody else has it.
    parents : Tensor of int64 or None
        The row that each new one is made from; None where they are made of zeros.
    n_kept, n_new : int

    Raises
    ------
    TypeError
        If `keep` or `grow` is not of such a kind.
    ValueError
        If a mask or a sequence has another shape, or no row would be left.
    IndexError
        If there is no row of such a number.
    """

    def __init__(self, keep: Any, grow: Any, n: int) -> None:
        self.kept = None if keep is None else _rows("keep", keep, n)
        self.n_kept = n if self.kept is None else len(self.kept)
        self.n_new, self.parents = _new_rows(grow, n)
        if n and not len(self):
            raise ValueError(
                "keep and grow leave the parameter no rows; keep one, or take its group away with "
                "remove_param_group"
            )

    def __len__(self) -> int:
        return self.n_kept + self.n_new

    def to(self, device: torch.device) -> None:
        """Have the numbers of rows on a device."""
        self.kept = None if self.kept is None else self.kept.to(device)
        self.parents = None if self.parents is None else self.parents.to(device)


def _new_rows(grow: Any, n: int) -> tuple[int, Tensor | None]:
    if isinstance(grow, bool | np.bool_):
        raise TypeError(f"grow must be {_INTEGERS}, got {grow!r}")
    if getattr(grow, "ndim", 0) == 0 and not isinstance(grow, list | tuple | str | bytes):
        try:
            number = operator.index(grow)
        except TypeError:
            pass
        else:
            if number < 0:
                raise ValueError(
                    f"grow must be at least 0, got {number}; rows that are to go are left out of keep"
                )
            return number, None
    parents = _rows("grow", grow, n, is_mask_taken=False)
    return len(parents), parents


def _copied(given: Any) -> Any:
    return np.array(given) if isinstance(given, np.ndarray) else given


def _rows(name: str, given: Any, n: int, *, is_mask_taken: bool = True) -> Tensor:
    """Return the numbers of rows as a tensor of its own."""
    wanted = "row numbers or a mask of bool" if is_mask_taken else _INTEGERS
    try:
        # (Arrays may run backwards or be read-only, which torch does not take.)
        found = given if isinstance(given, Tensor) else torch.as_tensor(_copied(given), device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be {wanted}, got {type(given).__name__}: {error}") from error
    if found.layout != torch.strided or found.is_meta:
        raise TypeError(f"{name} must be {wanted}, got a tensor of layout {found.layout} on {found.device}")
    if not isinstance(given, Tensor | np.ndarray) and not found.numel():
        found = found.to(torch.int64)  # of a sequence without numbers, nobody has said the dtype
    if found.is_floating_point() or found.is_complex():
        raise TypeError(f"{name} must be {wanted}, got {found.dtype}; convert it with .to(torch.int64)")
    if found.dim() != 1:
        raise ValueError(f"{name} must have one dimension, got the shape {tuple(found.shape)}")
    if found.dtype == torch.bool:
        if not is_mask_taken:
            raise TypeError(f"{name} must be {wanted}, got a mask; use {name}=mask.nonzero().flatten()")
        if len(found) != n:
            raise ValueError(
                f"{name} is a mask of {len(found)} rows, the parameter has {n}; give one for each row"
            )
        return found.nonzero().flatten()
    found = found.to(torch.int64, copy=True)
    if len(found):
        low, high = int(found.min()), int(found.max())
        if low < 0 or high >= n:
            raise IndexError(
                f"{name} has row numbers from {low} to {high}, and the parameter has {n} rows; they count from 0 "
                f"to {n - 1}"
                if n
                else f"{name} has row numbers, and the parameter has no rows; use an int for grow"
            )
    return found
