"""The quick way of a step: one call, if nothing has changed but gradients, counters and options."""

from __future__ import annotations

import torch

from fastadam.memory.structs import CHANGED
from fastadam.step.variants import flags_of
from fastadam.torch import options
from fastadam.torch.attempts import Attempts
from fastadam.torch.memo import Memo


def attempt(optimizer: torch.optim.Adam, memo: Memo) -> int:
    """Take the step of an optimizer with its memo; return TAKEN, or what stands in the way.

    Nothing was written then; see `fastadam.torch.attempts.Attempts.take`.
    """
    attempts = memo.attempts
    if attempts is None or attempts.cache.state is not optimizer.state:
        return CHANGED
    if memo.edits.noticed(optimizer.param_groups) and not _take_up_edits(optimizer, memo, attempts):
        return CHANGED
    if attempts.tables.known and not memo.averages.after.zeroes:
        return attempts.take_rows()
    return attempts.take()


def _take_up_edits(optimizer: torch.optim.Adam, memo: Memo, attempts: Attempts) -> bool:
    """Take up edited options; return whether the same parameters and kernels go with them."""
    version = memo.version
    memo.attempts = None  # an interrupt on the way leaves nothing that is half known
    groups = list(optimizer.param_groups)
    if not attempts.cache.is_in(groups, optimizer.state):
        return False
    try:
        hypers = options.check_groups(groups, memo.edits)
    except options.NotOurs:
        return False
    same_kernels = [*map(flags_of, hypers)] == [*map(flags_of, attempts.hypers)]
    same_kernels = same_kernels and options.are_alike(hypers, attempts.hypers)
    if same_kernels:
        if hypers != attempts.hypers:
            attempts.accept(hypers)
        memo.remember(attempts, version)
    return same_kernels
