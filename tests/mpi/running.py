"""One rank: runs the checks of a module; the first rank notes that they have passed, or one that fails, how."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from mpi4py import MPI


def main(module: str, found: str, folder: str) -> None:
    """Run all checks, up to the first that fails: after that the ranks are at different places, and are ended."""
    comm = MPI.COMM_WORLD
    passed: list[str] = []
    for name, check in importlib.import_module(f"tests.mpi.{module}").CHECKS.items():
        try:
            check(Path(folder))
        except BaseException:
            _note(found, {**dict.fromkeys(passed), name: f"rank {comm.rank}:\n{traceback.format_exc()}"})
            comm.Abort(1)
        passed.append(name)
    comm.Barrier()
    if comm.rank == 0:
        _note(found, dict.fromkeys(passed))


def _note(found: str, results: dict[str, str | None]) -> None:
    """Write the results, unless another rank has."""
    new = Path(f"{found}.{os.getpid()}.new")
    new.write_text(json.dumps(results))
    with contextlib.suppress(FileExistsError):
        os.link(new, found)
    new.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
