"""Runs that are not done yet, side by side, and the file that keeps what they gave."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

DIGITS, CURVE_DIGITS = 6, 4  # of the numbers that are kept
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Job(NamedTuple):
    """One training: a task, the name of a setting in it, and a seed."""

    task: str
    setting: str
    seed: int


def load(path: Path) -> dict[str, Any]:
    """Return what is kept so far."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def save(results: dict[str, Any], path: Path) -> None:
    """Keep results, in a file that is whole at any time."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    text = re.sub(r"\[[^][]*\]", lambda curve: " ".join(curve[0].split()), json.dumps(results, indent=1))
    unfinished.write_text(f"{text}\n")
    unfinished.replace(path)


def do(job: Job) -> dict[str, Any]:
    """Train once."""
    task = importlib.import_module(f"benchmarks.low_precision.{job.task}")
    run = task.train(task.SETTINGS[job.setting], job.seed)
    return {"final": _short(run.final, DIGITS), "curve": [_short(each, CURVE_DIGITS) for each in run.curve]}


def _short(number: float, digits: int) -> float | None:
    """Return a number with some digits; JSON has none that are not finite."""
    return float(f"{number:.{digits}g}") if abs(number) < float("inf") else None


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have the libraries that new processes import take one thread: models this small gain nothing by more."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def train_all(jobs: Iterable[Job], path: Path, at_once: int, say: Callable[[str], object]) -> None:
    """Train what is not in the file yet, and write each result into it when it is there."""
    results = load(path)
    trained: dict[str, Any] = results.setdefault("runs", {})
    missing = [each for each in jobs if str(each.seed) not in trained.get(each.task, {}).get(each.setting, {})]
    with _one_thread_each(), ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
        running = {pool.submit(do, job): job for job in missing}
        for done, future in enumerate(as_completed(running), 1):
            job, found = running[future], future.result()
            trained.setdefault(job.task, {}).setdefault(job.setting, {})[str(job.seed)] = found
            results["python"] = platform.python_version()  # whose manual the transformer reads
            save(results, path)
            say(f"{done} of {len(running)}: {job.task}, {job.setting}, seed {job.seed}: {found['final']}")
