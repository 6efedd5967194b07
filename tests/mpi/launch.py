"""Runs the checks of this folder under mpiexec, once for each number of ranks, whichever worker asks first."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.other_process import claim
from tests.support.processes import only

ROOT = Path(__file__).parents[2]
# On how many ranks; ``FASTADAM_RANKS="1 2"`` takes less time.
RANKS = tuple(map(int, os.environ.get("FASTADAM_RANKS", "1 2 3 4").split()))
LONG = 500  # seconds, after which ranks that wait for each other are ended


def mpiexec() -> str | None:
    """Return the command that starts ranks: that of this environment, or else of the machine."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    return beside or shutil.which("mpiexec")


def why_missing() -> str | None:
    """Say why nothing runs over MPI here; None where it does."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    if mpiexec() is None:
        return "there is no mpiexec"
    try:
        done = _run(2, ["-c", "from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2"], 60)
    except subprocess.TimeoutExpired:
        return "mpiexec hangs"
    return None if done[0] == 0 else f"mpiexec does not start two ranks: {done[1][-500:]}"


def run(ranks: int, arguments: list[str], limit: float = LONG) -> tuple[int, str]:
    """Run Python on so many ranks; return the exit code of mpiexec and all that was printed.

    Raises
    ------
    AssertionError
        If it takes longer than `limit` seconds; all of it is ended then.
    """
    try:
        return _run(ranks, arguments, limit)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"the ranks did not end in {limit} seconds; they printed:\n{error.output}") from None


def _run(ranks: int, arguments: list[str], limit: float) -> tuple[int, str]:
    command = [str(mpiexec()), "-n", str(ranks), sys.executable, *arguments]
    # One processor for each rank; by all means of MPICH's, messages stay on this machine.
    environment = only({"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        raise subprocess.TimeoutExpired(command, limit, printed) from error
    return process.returncode, printed


def check(folder: Path, module: str, name: str, ranks: int) -> None:
    """Fail if a check of a module has failed on one of so many ranks.

    Parameters
    ----------
    folder : Path
        Shared by all workers.
    module : str
        Of this package, with a dict ``CHECKS`` of functions.
    name : str
    ranks : int
    """
    found = _results(folder, module, ranks)
    assert name in found, f"it did not come to an end: {found}"
    assert found[name] is None, found[name]


def check_all(folder: Path, module: str, ranks: int, at_least: int) -> None:
    """Fail unless a module has so many checks, and all have passed on so many ranks."""
    found = _results(folder, module, ranks)
    failed = {name: said for name, said in found.items() if said is not None}
    assert not failed, "\n".join(f"{name}:\n{said}" for name, said in failed.items())
    assert len(found) >= at_least, sorted(found)


def _results(folder: Path, module: str, ranks: int) -> dict[str, Any]:
    found = folder / f"mpi-{module}-{ranks}.json"
    if claim(folder / f"mpi-{module}-{ranks}.claimed"):
        try:
            code, printed = run(ranks, ["-m", "tests.mpi.running", module, str(found), str(folder)])
            said = f"exit code {code}\n{printed}"
        except AssertionError as error:
            said = str(error)
        if not found.exists():
            new = found.with_suffix(".new")
            new.write_text(json.dumps({"": said}))
            new.replace(found)
    end = time.monotonic() + 2 * LONG
    while not found.exists():
        assert time.monotonic() < end, f"the checks of {module} on {ranks} ranks did not end"
        time.sleep(0.1)
    return dict(json.loads(found.read_text()))
