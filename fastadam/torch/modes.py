"""What torch does differently by thread or process: gradients on or off, overrides of functions, its own threads.

torch's own context managers are left with the wrong mode by an interrupt as they begin or end; these are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from fastadam.step import threads

Result = TypeVar("Result")
Mode = TypeVar("Mode")


def in_grad_mode(enabled: bool, work: Callable[[], Result]) -> Result:
    """Return what `work` returns, called with gradients enabled or not; the mode is then what it was."""
    return _in_mode(torch.is_grad_enabled(), enabled, torch.set_grad_enabled, work)


def without_overrides(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, called while no `__torch_function__` runs, of subclasses or of modes.

    What is found out about a tensor, and done to it, is then what torch itself says and does.
    """
    off = torch._C._TorchFunctionState.ALL_DISABLED
    return _in_mode(torch._C._get_torch_function_state(), off, torch._C._set_torch_function_state, work)


def without_threads_in_children(work: Callable[[], Result]) -> Result:
    """Return what `work` returns; in a forked child, torch's operations take one thread meanwhile.

    Its threads are those of the parent, and a child that waits for them hangs.
    """
    if not threads.are_forbidden():
        return work()
    return _in_mode(torch.get_num_threads(), 1, torch.set_num_threads, work)


def _in_mode(before: Mode, wanted: Mode, set_mode: Callable[[Mode], object], work: Callable[[], Result]) -> Result:
    try:
        try:
            set_mode(wanted)
            return work()
        finally:
            set_mode(before)
    finally:  # where an interrupt has kept the other one from it
        set_mode(before)
