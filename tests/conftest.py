"""What all tests share: one fixture over the backends, bit comparison, and short numbers to draw."""

from __future__ import annotations

import gc
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import fastadam
from fastadam.backends import HOST, c
from fastadam.step import threads
from tests.support.strategies import TIMES

# Deterministic, without deadlines: no test depends on timing. As many examples as where a test says nothing else.
hypothesis.settings.register_profile(
    "fastadam",
    max_examples=round(25 * TIMES),
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.differing_executors,
    ],
)
hypothesis.settings.load_profile("fastadam")

# Keras needs one of these, and writes its settings into a folder.
os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "jax")
os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), "fastadam-tests-keras"))

STATES = fastadam.available_backends()
# Those for NumPy arrays.
AVAILABLE = [name for name in HOST if STATES[name] == "available"]


SHARED = pytest.StashKey[Path]()


def shared_folder(config: pytest.Config) -> Path:
    """Return a folder that all workers of this run of pytest share, and that is removed after it."""
    if SHARED not in config.stash:
        handed = getattr(config, "workerinput", {}).get("shared")  # made by the controller of pytest-xdist
        if handed is None:
            made = tempfile.TemporaryDirectory(prefix="fastadam-tests-")
            config.add_cleanup(made.cleanup)
            handed = made.name
        config.stash[SHARED] = Path(handed)
    return config.stash[SHARED]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the shared folder is."""
    node.workerinput["shared"] = str(shared_folder(node.config))


@pytest.fixture(params=HOST)
def backend(request: pytest.FixtureRequest) -> str:
    """Name each backend for NumPy arrays; those that are missing here are skipped, with the reason."""
    if request.param not in AVAILABLE:
        pytest.skip(f"{request.param}: {STATES[request.param]}")
    return str(request.param)


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even small steps be split over threads."""
    monkeypatch.setattr(threads, "ELEMENTS_PER_THREAD", 16)


@pytest.fixture
def without_collection() -> Iterator[None]:
    """Have no garbage collected while the test runs.

    What a signal's handler raises while Python runs the finalizer of some object is not raised but reported: where
    it is to be seen, nobody else's garbage may be in the way.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of the C backend, forced while the test runs."""
    if "c" not in AVAILABLE:
        pytest.skip(f"c: {STATES['c']}")
    if request.param not in c.instruction_sets():
        pytest.skip(f"this processor has no {request.param}")
    before = c.instruction_set()
    c.use_instruction_set(request.param)
    yield request.param
    c.use_instruction_set(before)


# Other libraries, without which their tests are skipped.
LIBRARIES = (
    "ml_dtypes",
    "torch",
    "jax",
    "optax",
    "keras",
    "scipy",
    "sklearn",
    "thinc",
    "autograd",
    "mypy",
    "pyright",
)
LIBRARIES += ("stable_baselines3", "lightning", "mkdocs")


def _installed(name: str) -> str:
    return "available" if importlib.util.find_spec(name) else "not installed"


def pytest_report_header() -> list[str]:
    """Say which backends are tested."""
    return [f"fastadam backends: {STATES}"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail where a backend that was promised is missing, also where no header is printed (``-q``)."""
    if hasattr(session.config, "workerinput"):
        return  # whoever started this worker of pytest-xdist has looked
    promised = os.environ.get("FASTADAM_PROMISED_BACKENDS", "").split()
    states = {**STATES, **{name: _installed(name) for name in LIBRARIES}, "gloo": _installed("torch")}
    states["mpi"] = _installed("mpi4py")
    if "gloo" in promised and states["gloo"] == "available":
        from tests.torch.distributed.launch import why_missing  # imports PyTorch

        states["gloo"] = why_missing() or "available"
    if "mpi" in promised:
        from tests.mpi.launch import why_missing as why_no_mpi  # starts two ranks

        states["mpi"] = why_no_mpi() or "available"
    broken = {name: states[name] for name in promised if states[name] != "available"}
    if broken:
        pytest.exit(f"promised backends are missing: {broken}", returncode=1)
