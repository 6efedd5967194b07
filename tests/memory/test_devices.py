"""Devices: found by name, or missing; and what work lists keep of groups."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.memory import devices
from fastadam.memory.host import HOST
from fastadam.work.slots import slots_of
from tests.conftest import AVAILABLE

PACKAGE = Path(fastadam.__file__).parent
CUDA = ("memory/cuda", "backends/cuda")


def run(script: str, folder: str | None = None) -> str:
    """Run a script in a process of its own; the package is the one in `folder`, where it is given."""
    if folder is not None:
        script = f"import fastadam\nassert fastadam.__file__.startswith({folder!r})\n{textwrap.dedent(script)}"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": folder or os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def without_cuda(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a copy of the package in which nothing is left of CUDA; return the folder that it is in."""
    folder = tmp_path_factory.mktemp("without-cuda")
    shutil.copytree(PACKAGE, folder / "fastadam", ignore=shutil.ignore_patterns("__pycache__"))
    for part in CUDA:
        assert (folder / "fastadam" / part / "__init__.py").exists()
        shutil.rmtree(folder / "fastadam" / part)
    return str(folder)


def test_all_else_works_without_the_modules_of_cuda(without_cuda: str) -> None:
    said = run(
        """
        import pickle
        import numpy as np, fastadam

        states = fastadam.available_backends()
        print(states.pop("cuda"))
        for backend, state in states.items():
            if state != "available":
                continue
            arrays = {"w": np.ones((2, 3), np.float32), "b": np.ones(4, np.complex128)}
            grads = {name: np.full_like(array, 0.5) for name, array in arrays.items()}
            params = {name: fastadam.Parameter(array.copy()) for name, array in arrays.items()}
            flat = fastadam.pack([array.copy() for array in arrays.values() if array.dtype == np.float32])
            for given in (arrays, params, [{"params": flat}, {"params": arrays["b"].copy()}]):
                optimizer = fastadam.Adam(given, lr=0.1, backend=backend)
                assert optimizer.backend == backend
                optimizer.step(grads if isinstance(given, dict) else list(grads.values()))
                optimizer.step({**grads, "b": None} if isinstance(given, dict) else [grads["w"], None])
                optimizer.zero_grad(set_to_none=False)
                again = pickle.loads(pickle.dumps(optimizer))
                again.load_state_dict(optimizer.state_dict())
                optimizer.param_groups[0]["amsgrad"] = True
                optimizer.step(grads if isinstance(given, dict) else list(grads.values()))
                assert [int(each["step"]) for each in optimizer.state.values()] == [3, 2]
        for act in (
            lambda: fastadam.pack([np.ones(2)], device="cuda"),
            lambda: fastadam.pack([np.ones(2)], device="gpu"),
            lambda: fastadam.Adam([np.ones(2)], backend="cuda"),
            lambda: fastadam.Adam(["no array"]),
            lambda: fastadam.Adam([np.ones(2)]).step(["no array"]),
        ):
            try:
                act()
            except Exception as error:
                print(f"{type(error).__name__}: {error}")
        """,
        without_cuda,
    )
    reason = devices.NOT_INSTALLED
    unavailable = f"BackendUnavailableError: backend 'cuda' is not available: {reason}"
    assert said.splitlines() == [
        reason,
        unavailable,
        "ValueError: device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'",
        unavailable,
        "TypeError: parameter 0 is a str, not a NumPy array; give an array in the place of 'no array'",
        "TypeError: the gradient of parameter 0 is a str, not a NumPy array; give an array in the place of "
        "'no array'; use None for a parameter without a gradient",
    ]


def test_checkpoints_work_without_the_modules_of_cuda(without_cuda: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = str(tmp_path / "run.safetensors")
    said = run(
        f"""
        import numpy as np, fastadam
        ours, theirs = (fastadam.Adam([np.full(3, start)]) for start in (1.0, 2.0))
        ours.step([np.ones(3)])
        fastadam.save({path!r}, ours, extra={{"epoch": 7}})
        print(fastadam.load({path!r}, theirs), int(theirs.state[0]["step"]))
        """,
        without_cuda,
    )
    assert said.strip() == "{'epoch': 7} 1"


def test_torch_works_without_the_modules_of_cuda(without_cuda: str) -> None:
    pytest.importorskip("torch")
    said = run(
        """
        import torch, fastadam.torch
        param = torch.nn.Parameter(torch.ones(3))
        optimizer = fastadam.torch.Adam([param])
        param.grad = torch.ones(3)
        for _ in range(3):
            optimizer.step()
        print(float(optimizer.state[param]["step"]))
        """,
        without_cuda,
    )
    assert said.strip() == "3.0"


def test_other_kinds_of_memory_are_imported_when_they_are_needed() -> None:
    said = run(
        """
        import sys
        import numpy as np, fastadam
        params = [np.ones(3), fastadam.Parameter(np.ones(2))]
        fastadam.Adam({"x": np.ones(3)}).step({"x": np.ones(3)})
        fastadam.Adam(params).step([np.ones(3), np.ones(2)])
        print([name for name in sys.modules if name.startswith("fastadam.memory.cuda")])
        """
    )
    assert said.strip() == "[]"


def test_a_kind_of_memory_that_lacks_something_else_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that is broken says so; it does not pass for one without CUDA."""
    package = tmp_path / "half_a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("import a_module_that_there_is_not")
    monkeypatch.syspath_prepend(tmp_path)
    assert devices.import_if_there("half_a_package.missing") is None
    assert devices.import_if_there("no_package_at_all.missing") is None
    with pytest.raises(ModuleNotFoundError, match="a_module_that_there_is_not"):
        devices.import_if_there("half_a_package.broken")


def test_what_is_no_array_of_any_device_is_the_hosts_to_refuse() -> None:
    for value in (None, "x", 1.0, [np.ones(2)], np.float64(1)):
        assert not devices.is_array(value)
        assert devices.kind_of(value) is type(HOST)
    assert devices.is_array(np.ones(2))
    assert devices.device_of(np.ones(2)) is HOST
    assert devices.named("cpu") is HOST


@pytest.mark.parametrize("one_piece", [False, True])
def test_slots_are_made_once_and_anew_for_other_moments(one_piece: bool) -> None:
    optimizer = fastadam.Adam(fastadam.pack([np.ones(3), np.ones(4)]))
    (group,) = optimizer._groups
    slots = slots_of(group, one_piece)
    assert slots_of(group, one_piece) is slots
    assert slots_of(group, not one_piece) is not slots
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step()
    anew = slots_of(group, one_piece)
    assert anew is not slots
    assert (anew.spans["max_exp_avg_sq"] != 0).all()
    assert not (slots.spans["max_exp_avg_sq"] != 0).any()


def test_slots_do_not_keep_an_optimizer_alive() -> None:
    optimizer: Any = fastadam.Adam(fastadam.pack([np.ones(3)]))
    optimizer.step()
    group = weakref.ref(optimizer._groups[0])
    moment = weakref.ref(optimizer._groups[0].moments["exp_avg"][np.dtype(float), HOST])
    del optimizer
    gc.collect()
    assert group() is None
    assert moment() is None


@pytest.mark.parametrize("name", AVAILABLE)
def test_gradients_are_let_go_after_a_step(name: str) -> None:
    """Also those that Python had to look at, or to copy."""
    optimizer = fastadam.Adam([np.ones((2, 3)), np.ones(4)], backend=name)
    grads = [np.ones((3, 2)).T, np.ones(8)[::2]]
    kept = [weakref.ref(grad) for grad in grads]
    optimizer.step(grads)
    del grads
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
