"""One rank: runs the checks of a module, and the first rank notes what came of them."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path

from mpi4py import MPI


def main(module: str, found: str, folder: str) -> None:
    """Run all checks, up to the first that fails: after that the ranks may be at different places."""
    comm = MPI.COMM_WORLD
    results: dict[str, str | None] = {}
    for name, check in importlib.import_module(f"tests.mpi.{module}").CHECKS.items():
        failed = None
        try:
            check(Path(folder))
        except BaseException:
            failed = f"rank {comm.rank}:\n{traceback.format_exc()}"
        said = [each for each in comm.allgather(failed) if each is not None]
        results[name] = "\n".join(said) or None
        if said:
            break
    if comm.rank == 0:
        new = Path(found).with_suffix(".new")
        new.write_text(json.dumps(results))
        new.replace(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
