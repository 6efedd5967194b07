"""The CUDA backend without a device: which files of tests need a process with another environment."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.support.other_process import INSIDE, File, OtherProcess

HERE = Path(__file__).parent
PROCESSES = pytest.StashKey[dict[str, OtherProcess]]()


def simulator() -> dict[str, str]:
    """Return the environment in which Numba simulates a device."""
    return {"NUMBA_ENABLE_CUDASIM": "1"}


def stand_in(folder: Path) -> dict[str, str]:
    """Build the stand-in for the driver; return the environment in which it is found."""
    folder.mkdir(exist_ok=True)
    library = folder / "libcuda.so.1"
    source = HERE / "stand_in_driver.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "NUMBA_ENABLE_CUDASIM": "0"}


def environments(folder: Path) -> dict[str, Callable[[], dict[str, str]]]:
    """Return what makes the environment of each file that needs one of its own."""
    return {
        "test_simulated.py": simulator,
        "test_simulated_after.py": simulator,
        "test_simulated_api.py": simulator,
        "test_simulated_compact.py": simulator,
        "test_simulated_norm.py": simulator,
        "test_simulated_torch.py": simulator,
        "test_stand_in.py": functools.partial(stand_in, folder / "stand_in"),
        "test_stand_in_norm.py": functools.partial(stand_in, folder / "stand_in_norm"),
        "test_stand_in_after.py": functools.partial(stand_in, folder / "stand_in_after"),
    }


def why_missing(name: str) -> str | None:
    """Return why a file cannot run here, or None."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    if name.startswith("test_stand_in") and shutil.which("cc") is None:
        return "there is no C compiler"
    if name == "test_simulated_torch.py" and importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    return None


def processes(config: pytest.Config) -> dict[str, OtherProcess]:
    """Return the process of each file that can run here; the first call starts them all."""
    if PROCESSES not in config.stash:
        folder = shared_folder(config)
        config.stash[PROCESSES] = {
            name: OtherProcess(HERE / name, folder, environment)
            for name, environment in environments(folder).items()
            if why_missing(name) is None
        }
        worker = getattr(config, "workerinput", None)  # of pytest-xdist
        names = (worker["workerid"], worker["workercount"]) if worker else ()
        for process in config.stash[PROCESSES].values():
            config.add_cleanup(functools.partial(process.stop, *names))
            process.start()
    return config.stash[PROCESSES]


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect from another process what cannot run in this one; by hand, the environment may be right already."""
    simulated = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" and "simulated" in module_path.name
    if (
        module_path.parent != HERE
        or module_path.name not in environments(HERE)
        or INSIDE in os.environ
        or simulated
    ):
        return None
    why = why_missing(module_path.name)
    process = processes(parent.config)[module_path.name] if why is None else None
    return File.from_parent(parent, path=module_path, process=process, why_missing=why)
