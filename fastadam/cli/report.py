"""What ``fastadam bench`` prints: tables for people, JSON for programs."""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

import fastadam
from fastadam.cli.contenders import BY_HAND
from fastadam.cli.measure import Result, readable_ratio, readable_time
from fastadam.cli.terminal import console

BASES = (BY_HAND, "torch fused", "torch default")  # what the others are compared with, where it takes part
SHORT_NAMES = {BY_HAND: "NumPy"}  # so that a table fits into 80 columns
LONG_TO_READY = 2.0  # seconds, from which on it is said what took them
HOW_TO_READ = (
    "× NAME: how many times as fast as NAME, the ratio of the two times shown. Times are medians over rounds; in "
    "each round all contenders have their turn, in random order, each with an untimed step before the timed ones."
)


class Report(NamedTuple):
    """All that was found.

    Attributes
    ----------
    results : list of Result
        One for each problem that was measured.
    dtype : str
        Of parameters and gradients.
    limit : int
        Most threads.
    load : float or None
        The load average before all.
    left_out : dict
        Why a contender takes part in no problem.
    not_measured : dict
        Why a problem could not be measured, by its title.
    """

    results: list[Result]
    dtype: str
    limit: int
    load: float | None
    left_out: dict[str, str]
    not_measured: dict[str, str]

    def how_measured(self) -> str:
        """Return one line: rounds, threads and dtype."""
        rounds = sorted({result.rounds for result in self.results})
        taken = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
        return f"fastadam {fastadam.__version__}, {self.dtype}, {taken} rounds, {most_threads(self.limit)}"


def own_names(names: Any) -> set[str]:
    """Return the names of those contenders that are fastadam's."""
    return {name for name in names if name.startswith(("packed ", "in place ", "fastadam."))}


def most_threads(limit: int) -> str:
    """Return the limit in words."""
    return f"at most {limit} thread{'s' if limit > 1 else ''}"


# -------------------- for people


def show(report: Report) -> None:
    """Print a table for each problem with what has to be known about it, and how to read them."""
    out = console()
    for result in report.results:
        out.print(table(result))
        steps = sorted(set(result.steps.values()))
        out.print(
            f"{result.rounds} rounds, {report.dtype}, {most_threads(report.limit)}; steps timed at once: "
            f"{' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))}"
        )
        for line, style in remarks(result):
            out.print(Text(line, style=style))
        out.print()
    for title, reason in report.not_measured.items():
        out.print(Text(f"{title}: not measured, {reason}\n", style="yellow"))
    out.print(HOW_TO_READ)
    if any("optax" in result.seconds for result in report.results):
        out.print("optax runs on JAX's own threads: as many as there are processors, whatever --threads says.")
    for name, reason in report.left_out.items():
        out.print(Text(f"without {name}: {reason}", style="dim"))


def table(result: Result) -> Table:
    """Return the table of one problem."""
    bases = [base for base in BASES if base in result.seconds]
    own = own_names(result.seconds)
    found = Table(title=result.problem.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    found.add_column("contender")
    found.add_column("one step", justify="right")
    for base in bases:
        found.add_column(f"× {SHORT_NAMES.get(base, base)}", justify="right")
    for name in result.seconds:
        ratios = (readable_ratio(result.ratio(base, name).median) for base in bases)
        time = readable_time(result.time(name).median)
        found.add_row(name, time, *ratios, style="bold" if name in own else "dim")
    return found


def remarks(result: Result) -> list[tuple[str, str]]:
    """Return what has to be known beside the figures of a problem, each with a style."""
    found = []
    if result.machine.busy:
        found.append((f"{busy(result)}: these times may be too long, above all where threads are used.", "yellow"))
    else:
        found.append((f"Machine not busy: {result.machine.in_words()}.", "dim"))
    long = {name: seconds for name, seconds in result.ready.items() if seconds >= LONG_TO_READY}
    if long:
        each = ", ".join(f"{name} {readable_time(seconds)}" for name, seconds in long.items())
        found.append((f"Before the first step, counted in no figure above: {each}.", "dim"))
    for reason in dict.fromkeys(result.left_out.values()):
        names = ", ".join(name for name, why in result.left_out.items() if why == reason)
        found.append((f"without {names}: {reason}", "yellow"))
    return found


def busy(result: Result) -> str:
    """Return that the machine was busy, as the beginning of a sentence."""
    return f"Busy machine ({result.machine.in_words()})"


# -------------------- for programs


def as_json(report: Report) -> dict[str, Any]:
    """Return all that was measured."""
    return {
        "fastadam": fastadam.__version__,
        "dtype": report.dtype,
        "threads": report.limit,
        "load_before": report.load,
        "left_out": report.left_out,
        "not_measured": report.not_measured,
        "problems": [_problem(result) for result in report.results],
    }


def _problem(result: Result) -> dict[str, Any]:
    return {
        "title": result.problem.title,
        "arrays": len(result.problem.shapes),
        "parameters": result.problem.parameters,
        "rounds": result.rounds,
        "machine": {"busy": result.machine.busy, **result.machine._asdict()},
        "left_out": result.left_out,
        "contenders": {
            name: {
                "seconds_per_step": result.time(name)._asdict(),
                "steps_timed_at_once": result.steps[name],
                "seconds_to_first_step": result.ready[name],
                "times_as_fast_as": {
                    base: result.ratio(base, name)._asdict() for base in BASES if base in result.seconds
                },
            }
            for name in result.seconds
        },
    }
