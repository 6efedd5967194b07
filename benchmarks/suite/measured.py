"""How the benchmarks reach what they measure.

asv runs these files, as they are now, against the package as it was at an older commit. So they use the package's
public API alone, and take contenders and shapes from this checkout's ``fastadam/cli``, which older commits lack.
They import it in their set-up at the earliest: asv imports these files once and forks, and in a forked child of a
process that has imported fastadam, all steps run on one thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastadam.cli.contenders import Step
    from fastadam.cli.shapes import Shapes

COMMAND_LINE = Path(__file__).parents[2] / "fastadam" / "cli"
BACKENDS = ["c", "numba", "numpy"]
COMPILED = ["c", "numba"]
LAYOUTS = ["packed", "in place"]
TORCH_FACE = "torch face"
SETTLED = 3  # steps, after which each is like the one before
TURN, TURNS, SECONDS = 2e-3, 5, 0.5  # a turn lasts at least so long; at least so many of them, and for so long
SHARE_OF_MEMORY = 0.7  # what a benchmark may take of the memory that is left


class Benchmark:
    """What all of them have: asv keeps results of other versions out of the history.

    A version is raised where a change of the benchmark makes its results not comparable with those before.
    """

    version = "1"


def forget_editable_install() -> None:
    """Have only the path searched: an editable install would lend an old fastadam the modules that it lacks."""
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")
    ]


def current(name: str) -> Any:
    """Return the module ``fastadam.cli.NAME`` of this checkout, whatever version of the rest is measured."""
    if not _is_current(sys.modules.get("fastadam.cli")):
        spec = importlib.util.spec_from_file_location(
            "fastadam.cli", COMMAND_LINE / "__init__.py", submodule_search_locations=[str(COMMAND_LINE)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["fastadam.cli"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"fastadam.cli.{name}")


def _is_current(package: Any) -> bool:
    return package is not None and Path(package.__file__).parent.samefile(COMMAND_LINE)


def need_backend(name: str) -> None:
    """Have asv skip the benchmark where the backend is missing."""
    import fastadam

    states: Mapping[Any, str] = fastadam.available_backends()
    if states.get(name) != "available":
        raise NotImplementedError(f"{name} is not available: {states.get(name, 'unknown')}")


def need_module(name: str) -> Any:
    """Return the module, or have asv skip the benchmark where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotImplementedError(f"{name} is missing: {error}") from error


def need_memory(nbytes: int) -> None:
    """Have asv skip the benchmark where there is not so much memory."""
    at_hand = current("memory").available()
    if at_hand is not None and nbytes > SHARE_OF_MEMORY * at_hand:
        raise NotImplementedError(f"{nbytes:,} bytes are needed, and {at_hand:,} are available")


def shapes_of(tensors: int) -> Shapes:
    """Return as many shapes: PPO's parameters in 1 or in their own 12, GPT-2 small (148), tiny ones (3,000)."""
    shapes = current("shapes")
    pair: Shapes = shapes.ppo_pair()
    if tensors == 1:
        return [(sum(int(np.prod(shape)) for shape in pair),)]
    made: dict[int, Any] = {12: shapes.ppo_pair, 148: shapes.gpt2_small, 3000: shapes.tiny_tensors}
    found: Shapes = made[tensors]()
    return found


def maker(backend: str, layout: str) -> Any:
    """Return what makes the step of a backend and a layout (see ``fastadam/cli/contenders.py``)."""
    need_backend(backend)
    contenders = current("contenders")
    if layout == TORCH_FACE:
        need_module("fastadam.torch")
        return contenders.torch_face(backend)
    return {"packed": contenders.fastadam_packed, "in place": contenders.fastadam_in_place}[layout](backend)


def make_step(backend: str, layout: str, shapes: Shapes, dtype: str = "float32") -> Step:
    """Return a step function that has settled: kernels are compiled, pages there, tensors known."""
    make = maker(backend, layout)
    # Parameters, gradients, both moments, and what packs or temporaries take.
    need_memory(8 * np.dtype(dtype).itemsize * sum(int(np.prod(shape)) for shape in shapes))
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape, np.float32).astype(dtype, copy=False) for shape in shapes]
    step: Step = make([np.full(shape, 0.5, dtype) for shape in shapes], [grads])
    for _ in range(SETTLED):
        step()
    return step


def seconds_of(step: Step) -> float:
    """Return the seconds that one of several consecutive steps takes: the median over turns.

    asv's own ``time_`` benchmarks run a set-up before every single call, and so time only first steps.
    """
    timed = current("measure").timed
    steps = max(1, round(TURN / min(timed(step, 1) for _ in range(SETTLED))))
    end = time.monotonic() + SECONDS
    turns: list[float] = []
    while len(turns) < TURNS or time.monotonic() < end:
        turns.append(timed(step, steps))
    return statistics.median(turns)
