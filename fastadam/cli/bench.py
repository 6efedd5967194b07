"""``fastadam bench``: how fast a step is here, beside other optimizers."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import fastadam
from fastadam.backends import HOST
from fastadam.cli.contenders import (
    fastadam_in_place,
    fastadam_packed,
    numpy_per_tensor,
    optax_adam,
    torch_adam,
    torch_face,
)
from fastadam.cli.extra import REMEDY
from fastadam.cli.measure import Contender, Problem, Result, measure, readable_ratio, spread
from fastadam.cli.memory import available, readable
from fastadam.cli.shapes import Shapes, digits_mlp, gpt2_small, ppo_pair, resnet50, tiny_tensors
from fastadam.cli.terminal import console, fail, print_json
from fastadam.step import threads
from fastadam.step.threads import processors

MODELS: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "ppo": ("PPO: actor and critic", ppo_pair),
    "tiny": ("Vectors of 1 to 97 elements", tiny_tensors),
    "mlp": ("MLP 784-512-512-10", digits_mlp),
    "resnet50": ("ResNet-50", resnet50),
    "gpt2": ("GPT-2 small", gpt2_small),
}
BY_HAND = "NumPy by hand"
BASES = (BY_HAND, "torch fused", "torch default")  # what the others are compared with, where it takes part
SHORT_NAMES = {BY_HAND: "NumPy"}  # so that a table fits into 80 columns
PEERS = ("torch", "optax")
SHARE_OF_MEMORY = 0.8  # the rest is left to everything else


class Settings(NamedTuple):
    """What was asked for on the command line."""

    sizes: list[str]
    like: list[str]
    backends: list[str]
    without: list[str]
    dtype: str
    rounds: int
    seconds: float
    threads: int | None
    plot: Path | None
    as_json: bool


def run(settings: Settings) -> None:
    """Measure, and print what was found."""
    problems = read_problems(settings.sizes, settings.like)
    backends = choose_backends(settings.backends)
    try:
        limit = threads.check_limit(settings.threads)
    except ValueError as error:  # also a wrong FASTADAM_NUM_THREADS
        fail(f"{error}; set it to a number in that range or leave it out")
    if settings.plot is not None:
        check_plot(settings.plot)
    contenders, left_out = line_up(backends, settings.without, settings.threads)
    for problem in problems:
        check_memory(problem, contenders, settings.dtype)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with torch_threads(limit if {"torch fused", "torch default"} & contenders.keys() else None):
        results = measure_all(problems, contenders, settings)
    if settings.as_json:
        print_json(as_json(results, settings.dtype, limit, left_out, load))
    else:
        show(results, settings.dtype, limit, left_out, load)
    if settings.plot is not None:
        from fastadam.cli.plot import draw

        base = next(base for base in ("torch fused", *BASES) if base in contenders)
        how = f"{how_measured(results, settings.dtype, limit)}. Thin lines: quartiles over the rounds."
        draw(results, own_names(contenders), base, how, settings.plot)
        console(stderr=True).print(f"plot: {settings.plot}", soft_wrap=True)


# -------------------- what was asked for


def read_problems(sizes: list[str], like: list[str]) -> list[Problem]:
    """Return the problems that the sizes and models name; without any, a small and a large one."""
    if not sizes and not like:
        sizes, like = ["1e6"], ["ppo"]
    problems = []
    for name in like:
        title, shapes = MODELS[name]
        problems.append(_titled(title, shapes()))
    problems += [_titled("One array", [(read_size(text),)]) for text in sizes]
    return problems


def _titled(title: str, shapes: Shapes) -> Problem:
    count = Problem(title, shapes).parameters
    arrays = f", {len(shapes)} arrays" if len(shapes) > 1 else ""
    return Problem(f"{title}{arrays}, {count:,} parameters", shapes)


def read_size(text: str) -> int:
    """Return the number that ``1000``, ``1_000`` or ``1e3`` stands for."""
    plain = text.replace("_", "").replace(",", "")
    number = 0
    if match := re.fullmatch(r"(\d{1,18})(?:e(\d{1,2}))?", plain, flags=re.IGNORECASE):
        number = int(match[1]) * 10 ** int(match[2] or 0)
    if number < 1:
        fail(f"SIZES must be whole numbers of parameters from 1 on, such as 1000 or 1e6, got {text!r}")
    return number


def choose_backends(asked_for: list[str]) -> list[fastadam.Backend]:
    """Return the backends to measure: those asked for, which must be available, else all that are."""
    states = fastadam.available_backends()
    for name in HOST:
        if name in asked_for and states[name] != "available":
            fail(f"--backend {name} is not available: {states[name]}")
    return [name for name in HOST if (name in asked_for if asked_for else states[name] == "available")]


def check_plot(path: Path) -> None:
    """End with one sentence if no plot can be drawn there: better before the measurement than after it."""
    try:
        from fastadam.cli.plot import formats
    except ImportError as error:
        fail(f"--plot needs matplotlib ({error}); try: {REMEDY}")
    if path.suffix.lstrip(".").lower() not in formats():
        fail(f"--plot must end in one of .png, .svg or .pdf, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        fail(f"--plot: there is no folder {str(path.parent)!r}; make it first")


def line_up(
    backends: list[fastadam.Backend], without: list[str], limit: int | None
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders by name, and why others do not take part."""
    installed = {peer: importlib.util.find_spec(peer) is not None for peer in PEERS}
    left_out: dict[str, str] = {peer: "not installed" for peer in PEERS if not installed[peer]}
    states = fastadam.available_backends()
    left_out |= {name: states[name] for name in HOST if states[name] != "available"}
    found = {}
    for backend in backends:
        found[f"packed {backend}"] = Contender(fastadam_packed(backend, limit), 4)
        found[f"in place {backend}"] = Contender(fastadam_in_place(backend, limit), 3)
    if installed["torch"] and "torch" not in without:
        found[f"fastadam.torch {backends[0]}"] = Contender(torch_face(backends[0], limit), 3)
        found["torch fused"] = Contender(torch_adam(fused=True), 3)
        found["torch default"] = Contender(torch_adam(), 3, 3)
    if installed["optax"] and "optax" not in without:
        found["optax"] = Contender(optax_adam, 8)
    found[BY_HAND] = Contender(numpy_per_tensor, 3, 4)
    left_out |= {name: "left out by --without" for name in without if installed[name]}
    return found, left_out


def own_names(contenders: dict[str, Any]) -> set[str]:
    """Return the names of those contenders that are fastadam's."""
    return {name for name in contenders if name.startswith(("packed ", "in place ", "fastadam."))}


def check_memory(problem: Problem, contenders: dict[str, Contender], dtype: str) -> None:
    """End with one sentence if a problem does not fit into the memory that can be had."""
    needed, at_hand = problem.bytes_needed(contenders, np.dtype(dtype).itemsize), available()
    if at_hand is not None and needed > SHARE_OF_MEMORY * at_hand:
        fail(
            f"{problem.title}: {len(contenders)} contenders in {dtype} would take about {readable(needed)}, and "
            f"{readable(at_hand)} are available, of which fastadam takes up to {SHARE_OF_MEMORY:.0%}; choose a "
            f"smaller size, one backend (--backend c), or leave others out (--without optax)"
        )


@contextmanager
def torch_threads(limit: int | None) -> Iterator[None]:
    """Let torch use as many threads as fastadam may, for as long as this lasts."""
    if limit is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(limit)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -------------------- measuring


def measure_all(problems: list[Problem], contenders: dict[str, Contender], settings: Settings) -> list[Result]:
    """Measure every problem, with a progress bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[contender]}", style="dim"),
    )
    turns = len(contenders) * (settings.rounds + 1)
    results = []
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        for problem in problems:
            task = progress.add_task(problem.title, total=turns, contender="")

            def report(name: str, task: Any = task) -> None:
                progress.update(task, advance=1, contender=name)

            measured = measure(problem, contenders, settings.dtype, settings.rounds, settings.seconds, report)
            results.append(measured)
            progress.update(task, completed=turns, contender="")
    return results


# -------------------- showing


def readable_time(seconds: float) -> str:
    """Return a time with its unit and three digits, as far as they count."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def most_threads(limit: int) -> str:
    """Return the limit in words."""
    return f"at most {limit} thread{'s' if limit > 1 else ''}"


def how_measured(results: list[Result], dtype: str, limit: int) -> str:
    """Return one line: rounds, threads and dtype."""
    rounds = sorted({result.rounds for result in results})
    taken = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    return f"fastadam {fastadam.__version__}, {dtype}, {taken} rounds, {most_threads(limit)}"


def show(results: list[Result], dtype: str, limit: int, left_out: dict[str, str], load: float | None) -> None:
    """Print a table for each problem, and how to read them."""
    out = console()
    for result in results:
        bases = [base for base in BASES if base in result.seconds]
        own = own_names(result.seconds)
        table = Table(title=result.problem.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        table.add_column("contender")
        table.add_column("one step", justify="right")
        for base in bases:
            table.add_column(f"× {SHORT_NAMES.get(base, base)}", justify="right")
        for name, seconds in result.seconds.items():
            ratios = (readable_ratio(result.ratio(base, name).median) for base in bases)
            style = "bold" if name in own else "dim"
            table.add_row(name, readable_time(spread(seconds).median), *ratios, style=style)
        out.print(table)
        steps = sorted(set(result.steps.values()))
        out.print(
            f"{result.rounds} rounds, {dtype}, {most_threads(limit)}; steps timed at once: "
            f"{' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))}\n"
        )
    out.print(
        "× NAME: how many times as fast as NAME. In every round all contenders have their turn, in random order, "
        "each with one untimed step before the timed ones. Times are medians over rounds; ratios are medians of "
        "the ratios within a round."
    )
    if load is not None and load > processors() / 2:
        out.print(
            f"This machine was busy before the start (load {load:.1f}, {processors()} processors): optimizers "
            f"that use threads even in small steps, as torch does, may have waited for processors.",
            style="yellow",
        )
    if "optax" in results[0].seconds:
        out.print("optax runs on JAX's own threads: as many as there are processors, whatever --threads says.")
    for name, reason in left_out.items():
        out.print(Text(f"without {name}: {reason}", style="dim"))


def as_json(
    results: list[Result], dtype: str, limit: int, left_out: dict[str, str], load: float | None
) -> dict[str, Any]:
    """Return all that was measured."""
    return {
        "fastadam": fastadam.__version__,
        "dtype": dtype,
        "threads": limit,
        "load_before": load,
        "left_out": left_out,
        "problems": [
            {
                "title": result.problem.title,
                "arrays": len(result.problem.shapes),
                "parameters": result.problem.parameters,
                "rounds": result.rounds,
                "contenders": {
                    name: {
                        "seconds_per_step": spread(seconds)._asdict(),
                        "steps_timed_at_once": result.steps[name],
                        "times_as_fast_as": {
                            base: result.ratio(base, name)._asdict() for base in BASES if base in result.seconds
                        },
                    }
                    for name, seconds in result.seconds.items()
                },
            }
            for result in results
        ],
    }
