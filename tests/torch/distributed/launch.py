"""Runs the checks of this folder on several processes, once, however many workers of pytest-xdist ask for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.support.other_process import claim

ROOT = Path(__file__).parents[3]
# On how many processes; ``FASTADAM_RANKS="1 2 4"`` takes a minute more.
RANKS = tuple(map(int, os.environ.get("FASTADAM_RANKS", "1 2").split()))
LONG = 300  # seconds, after which processes that wait for each other are ended


def why_missing() -> str | None:
    """Say why nothing runs on several processes here; None where it does."""
    distributed = torch.distributed
    if not distributed.is_available():
        return "PyTorch was built without torch.distributed"
    return None if distributed.is_gloo_available() else "PyTorch was built without gloo"


def names(module: str) -> list[str]:
    """Return the names of a module's checks, its functions ``check_...``, without importing it."""
    text = (Path(__file__).parent / f"{module}.py").read_text()
    return re.findall(r"(?m)^def check_(\w+)", text)


def value_of(folder: Path, module: str, name: str, ranks: int) -> Any:
    """Return what a check of a module returned on the first of so many processes; fail where it has failed."""
    found = results(folder, module, ranks)
    assert name in found, found
    assert "error" not in found[name], found[name]["error"]
    return found[name]["value"]


def results(folder: Path, module: str, ranks: int) -> dict[str, Any]:
    """Return what the checks of a module came to on so many processes.

    Parameters
    ----------
    folder : Path
        Shared by all workers.
    module : str
        Of this package.
    ranks : int

    Returns
    -------
    dict
        By the name of each check, what it returned on the first process, or under ``"error"`` what failed.
    """
    found = folder / f"{module}-{ranks}.pt"
    if claim(folder / f"{module}-{ranks}.claimed"):
        _launch(folder, module, ranks, found)
    end = time.monotonic() + 2 * LONG
    while not found.exists():
        assert time.monotonic() < end, f"the checks of {module} on {ranks} processes did not end"
        time.sleep(0.1)
    return dict(torch.load(found, weights_only=False))


def _launch(folder: Path, module: str, ranks: int, found: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "tests.torch.distributed.running", module, str(folder), str(found)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONG,
            check=False,
        )
        said = f"exit code {done.returncode}\n{done.stdout}"
    except subprocess.TimeoutExpired as error:
        said = f"no end after {LONG} seconds\n{error.stdout}"
    if not found.exists():
        new = found.with_suffix(".new")
        torch.save({"": {"error": said}}, new)
        new.replace(found)


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Whether these are as many tensors, with the same bits."""
    return len(first) == len(second) and all(map(same_bits, first, second))


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors have the same bits."""
    one, other = (each.contiguous().view(torch.uint8) if each.dim() else each for each in (first, second))
    return torch.equal(one, other)
