"""One process of several: runs all checks of a module, and says what they came to."""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests.torch.distributed.launch import names

PATIENCE = datetime.timedelta(seconds=60)  # with a process that has failed
Check = Callable[[Path], Any]


def checks_of(module: str) -> dict[str, Check]:
    """Return the checks of a module of this package, by name."""
    found = vars(importlib.import_module(f"tests.torch.distributed.{module}"))
    return {name: found[f"check_{name}"] for name in names(module)}


def main(module: str, folder: str, found: str) -> None:
    """Run them."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=PATIENCE)
    results: dict[str, Any] = {}
    for name, check in checks_of(module).items():
        error, value = None, None
        try:
            torch.manual_seed(0)
            value = check(Path(folder))
        except Exception:
            error = f"process {distributed.get_rank()}: {traceback.format_exc()}"
        errors: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(errors, error)
        failed = "\n".join(each for each in errors if each is not None)
        results[name] = {"error": failed} if failed else {"value": value}
    if distributed.get_rank() == 0:
        new = Path(found).with_suffix(".new")
        torch.save(results, new)
        new.replace(found)
    distributed.barrier()  # none ends before all is written: the launcher ends all once one has ended badly
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # DTensors keep PyTorch's group alive, and its threads would ask for the interpreter while that is taken down:
    # once in some twenty runs they then end a process by "terminate called without an active exception".
    os._exit(0)
