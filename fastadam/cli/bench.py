"""``fastadam bench``: how fast a step is here, beside other optimizers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import fastadam
from fastadam.backends import HOST
from fastadam.cli.contenders import (
    BY_HAND,
    fastadam_in_place,
    fastadam_packed,
    numpy_per_tensor,
    optax_adam,
    torch_adam,
    torch_face,
)
from fastadam.cli.extra import REMEDY
from fastadam.cli.fitting import fit, in_order
from fastadam.cli.machine import load
from fastadam.cli.measure import Contender, Problem, Result, measure
from fastadam.cli.memory import available, give_back
from fastadam.cli.report import Report, as_json, show
from fastadam.cli.shapes import Shapes, digits_mlp, gpt2_small, ppo_pair, resnet50, tiny_tensors
from fastadam.cli.terminal import console, fail, print_json
from fastadam.step import threads

MODELS: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "ppo": ("PPO: actor and critic", ppo_pair),
    "tiny": ("Vectors of 1 to 97 elements", tiny_tensors),
    "mlp": ("MLP 784-512-512-10", digits_mlp),
    "resnet50": ("ResNet-50", resnet50),
    "gpt2": ("GPT-2 small", gpt2_small),
}
PEERS = ("torch", "optax")


class Settings(NamedTuple):
    """What was asked for on the command line."""

    sizes: list[str]
    like: list[str]
    backends: list[str]
    without: list[str]
    state_dtypes: list[str]
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
    contenders, left_out = line_up(backends, settings.without, settings.threads, settings.state_dtypes)
    before = load()
    with torch_threads(limit if {"torch fused", "torch default"} & contenders.keys() else None):
        results, not_measured = measure_all(problems, contenders, settings)
    if not results:
        each = "; ".join(f"{title}: {reason}" for title, reason in not_measured.items())
        fail(f"{each}; choose a smaller size, or give this process more memory")
    report = Report(results, settings.dtype, limit, before, left_out, not_measured)
    if settings.as_json:
        print_json(as_json(report))
    else:
        show(report)
    if settings.plot is not None:
        from fastadam.cli.plot import draw

        draw(report, list(contenders), settings.plot)
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
    backends: list[fastadam.Backend], without: list[str], limit: int | None, state_dtypes: Sequence[str] = ()
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
        for state in state_dtypes:
            make = fastadam_in_place(backend, limit, state_dtype=state)
            found[f"in place {backend}, {state}"] = Contender(make, 3 if state == "float32" else 2)
    if installed["torch"] and "torch" not in without:
        found[f"fastadam.torch {backends[0]}"] = Contender(torch_face(backends[0], limit), 3)
        found["torch fused"] = Contender(torch_adam(fused=True), 3)
        found["torch default"] = Contender(torch_adam(), 3, 3)
    if installed["optax"] and "optax" not in without:
        found["optax"] = Contender(optax_adam, 8)
    found[BY_HAND] = Contender(numpy_per_tensor, 3, 4)
    left_out |= {name: "left out by --without" for name in without if installed[name]}
    return found, left_out


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


def measure_all(
    problems: list[Problem], contenders: dict[str, Contender], settings: Settings
) -> tuple[list[Result], dict[str, str]]:
    """Measure every problem with those contenders that fit; return why others were not measured, too."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[contender]}", style="dim"),
    )
    results, not_measured = [], {}
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        for problem in problems:
            give_back()  # what the problem before held must not count as taken
            taking_part, left_out = fit(problem, contenders, np.dtype(settings.dtype).itemsize, available())
            if not taking_part:
                not_measured[problem.title] = left_out[in_order(list(contenders))[-1]]
                continue
            turns = len(taking_part) * (settings.rounds + 1)
            task = progress.add_task(problem.title, total=turns, contender="")

            def report(name: str, task: Any = task) -> None:
                progress.update(task, advance=1, contender=name)

            measured = measure(problem, taking_part, settings.dtype, settings.rounds, settings.seconds, report)
            results.append(measured._replace(left_out=left_out))
            progress.update(task, completed=turns, contender="")
    return results, not_measured
