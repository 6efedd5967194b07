"""Files of tests that need a process of their own; their cases are collected and reported one by one.

A conftest makes an `OtherProcess` for each such file, and a `File` of it. The process imports the file, says what
cases it has (`pytest_collection_finish` below) and waits until it is told which of them to run. So it starts once,
however many workers of pytest-xdist collect the same file, and each case is reported as soon as it is done. What
the two sides tell each other stands in files of one folder, which all workers share (see ``tests/conftest.py``).

A case has no result where the process has crashed, ended or been silent for too long: it fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

INSIDE = "FASTADAM_TESTS_INSIDE"  # in the process: the path that all its files' names begin with
SILENT = 400  # seconds after which a process that says nothing is given up; pytest-timeout ends a test before
ROOT = Path(__file__).parents[2]


def say(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps(value))
    new.replace(path)


def hear(path: Path) -> Any:
    """Return what was said, or None where nothing has been yet."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def claim(path: Path) -> bool:
    """Whether this worker is the first one that wants to."""
    with contextlib.suppress(FileExistsError):
        path.open("x").close()
        return True
    return False


class OtherProcess:
    """The process of one file of tests, as all workers see it.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        Where the workers and the processes leave word for each other.
    environment : callable
        Returns what the process has in its environment beside what is here; called where it is started.
    """

    def __init__(self, path: Path, folder: Path, environment: Callable[[], dict[str, str]]) -> None:
        self.path = path
        self.environment = environment
        self.base = folder / path.stem
        self.started_here: subprocess.Popen[bytes] | None = None
        self.watch: threading.Thread

    def at(self, what: str) -> Path:
        return self.base.with_suffix(f".{what}")

    def start(self) -> None:
        """Start the process, unless another worker has."""
        if not claim(self.at("started")):
            return
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", __name__, str(self.path)]
        environment = {**os.environ, **self.environment(), INSIDE: str(self.base)}
        with self.at("output").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.started_here = process
        self.watch = threading.Thread(target=lambda: say(self.at("ended"), process.wait()), daemon=True)
        self.watch.start()

    def stop(self, worker: str = "alone", workers: int = 1) -> None:
        """Leave, and end the process if it was started here, once all workers have left; it has said all then.

        Parameters
        ----------
        worker : str
            The name of this worker.
        workers : int
            How many there are.
        """
        say(self.base.with_name(f"{self.base.name}-left-{worker}"), True)
        if self.started_here is not None:
            self.wait_for(lambda: True if self._left() >= workers else None)
            self.started_here.kill()
            self.watch.join()

    def _left(self) -> int:
        return len([*self.base.parent.glob(f"{self.base.name}-left-*")])

    def wait_for(self, look: Callable[[], Any]) -> Any:
        """Return what `look` finds, once it is not None; None if the process ends, or is silent, before."""
        said, since = -1, time.monotonic()
        while True:
            ended = hear(self.at("ended")) is not None  # first, as it may say something and end
            found = look()
            if found is not None or ended:
                return found
            if (size := self._spoken()) != said:
                said, since = size, time.monotonic()
            if time.monotonic() - since > SILENT:
                return None
            time.sleep(0.02)

    def _spoken(self) -> int:
        return sum(path.stat().st_size for path in (self.at("results"), self.at("output")) if path.exists())

    def cases(self) -> list[tuple[str, list[str]]]:
        """Return the names of all cases, with their marks."""
        found = self.wait_for(lambda: hear(self.at("cases")))
        if found is None:
            raise pytest.Collector.CollectError(self.told())
        return [(name, marks) for name, marks in found]

    def run(self, names: list[str]) -> bool:
        """Let the process run these cases; False if another worker has."""
        if not claim(self.at("running")):
            return False
        say(self.at("selected"), names)
        return True

    def results(self) -> dict[str, Any]:
        """Return what has been said of cases until now, by their names."""
        path = self.at("results")
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return dict(json.loads(line) for line in lines if line.endswith("\n"))

    def told(self) -> str:
        """Return how the process ended and what it printed."""
        ended = hear(self.at("ended"))
        how = "the process is silent" if ended is None else f"the process has ended with exit code {ended}"
        return f"{how}; it printed:\n{self.at('output').read_text(errors='replace')}"


class File(pytest.File):
    """A file of tests whose cases run in another process, or are skipped where there cannot be one."""

    def __init__(self, *, process: OtherProcess | None, why_missing: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.process = process
        self.why_missing = why_missing

    def collect(self) -> Iterator[pytest.Item]:
        if self.process is None:
            pytest.skip(str(self.why_missing), allow_module_level=True)
        for name, marks in self.process.cases():
            case = Case.from_parent(self, name=name, process=self.process)
            for mark in marks:
                case.add_marker(mark)
            yield case


class NotPassedError(Exception):
    """What the other process says of a case that failed."""


class Case(pytest.Item):
    """One case, run there and reported here."""

    def __init__(self, *, process: OtherProcess, **options: Any) -> None:
        super().__init__(**options)
        self.process = process
        self.add_marker(pytest.mark.timeout(0))  # `SILENT` holds instead: other cases may come first

    def runtest(self) -> None:
        mine = self.process if self._start(self.process) else None

        def look() -> Any:
            nonlocal mine
            # While another worker's process is at work for us, let one work for all.
            if mine is None or hear(mine.at("ended")) is not None:
                others = {item.process: None for item in self.session.items if isinstance(item, Case)}
                mine = next((other for other in others if self._start(other)), mine)
            return self.process.results().get(self.name)

        found = self.process.wait_for(look)
        if found is None:
            raise NotPassedError(self.process.told())
        if found["outcome"] == "skipped":
            pytest.skip(found["why"])
        if found["outcome"] != "passed":
            raise NotPassedError(found["why"])

    def _start(self, process: OtherProcess) -> bool:
        items = [item for item in self.session.items if isinstance(item, Case)]
        return process.run([item.name for item in items if item.process is process])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **options: Any) -> Any:
        if isinstance(excinfo.value, NotPassedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args, **options)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


# -------------------- in the process, where this module is a plugin of pytest


def _own(what: str) -> Path:
    return Path(os.environ[INSIDE]).with_suffix(f".{what}")


def _name(nodeid: str) -> str:
    return nodeid.partition("::")[2]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say which cases there are."""
    if session.testsfailed:
        return
    known = {line.partition(":")[0] for line in session.config.getini("markers")} & {"gpu", "slow"}
    say(
        _own("cases"),
        [
            (_name(item.nodeid), sorted(known & {mark.name for mark in item.iter_markers()}))
            for item in session.items
        ],
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Wait until it is said what to run."""
    if session.testsfailed:
        return
    parent = os.getppid()
    while (names := hear(_own("selected"))) is None:
        if os.getppid() != parent:
            pytest.exit("nobody waits any more")
        time.sleep(0.02)
    wanted = set(names)
    session.items[:] = [item for item in session.items if _name(item.nodeid) in wanted]


_phases: dict[str, list[pytest.TestReport]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say how a case went, when it is over."""
    phases = _phases.setdefault(report.nodeid, [])
    phases.append(report)
    if report.when != "teardown":
        return
    failed = [each for each in phases if each.failed]
    skipped = [each for each in phases if each.skipped]
    why = ""
    if failed:
        sections = [f"{title}\n{text}" for title, text in phases[-1].sections]
        why = "\n".join([*(each.longreprtext for each in failed), *sections])
    elif skipped:
        reason = skipped[0].longrepr
        why = reason[2].removeprefix("Skipped: ") if isinstance(reason, tuple) else str(reason)
    outcome = "failed" if failed else "skipped" if skipped else "passed"
    with _own("results").open("a") as file:
        file.write(json.dumps([_name(report.nodeid), {"outcome": outcome, "why": why}]) + "\n")
