"""``fastadam demo``: a network that learns before your eyes, and then this machine's speed."""

from __future__ import annotations

import time
from typing import Any

import typer
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import fastadam
from fastadam.cli.demo import speed
from fastadam.cli.demo.drawing import bar, curve, decision_map
from fastadam.cli.demo.spiral import BATCH, WIDTHS, Training
from fastadam.cli.measure import readable_time
from fastadam.cli.terminal import console, fail, print_json
from fastadam.step.threads import check_limit

SHARE_OF_TRAINING = 0.4  # of the time, at most
FRAMES = 12  # a second, at most
SIDE_BY_SIDE = 70  # columns, from which on map and curve stand beside each other
TITLE = "A network in plain NumPy learns to tell three spirals apart"
WIDEST = 100  # columns


def run(seconds: float, as_json: bool) -> None:
    """Train, measure and say what was found, in about so many seconds at most."""
    try:
        _run(seconds, as_json)
    except KeyboardInterrupt:
        console(stderr=True).print("fastadam demo: stopped")
        raise typer.Exit(130) from None


def _run(seconds: float, as_json: bool) -> None:
    start = time.monotonic()
    try:
        check_limit(None)
    except ValueError as error:  # a wrong FASTADAM_NUM_THREADS
        fail(f"{error}; set it to a number in that range or leave it out")
    states = fastadam.available_backends()
    best: fastadam.Backend = next(name for name in ("c", "numba", "numpy") if states[name] == "available")
    out = console(stderr=as_json)
    # Numba would compile before the first step, which NumPy has done by then.
    training = Training("c" if best == "c" else "numpy")
    if as_json or not out.is_interactive:
        took = train(training, start + SHARE_OF_TRAINING * seconds, None)
    else:
        with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
            took = train(training, start + SHARE_OF_TRAINING * seconds, Screen(training, out, live))
    if not as_json:
        if not out.is_interactive:
            out.print(frame(training, out))
        out.print(Text(trained_in_words(training, took)))
        out.print()
    found = measured(out, best, seconds - (time.monotonic() - start))
    if as_json:
        print_json(_as_json(training, took, found))
    else:
        show_speed(out, found, states)


# -------------------- training


class Screen:
    """Shows a training while it goes on, a few times a second."""

    def __init__(self, training: Training, out: Console, live: Live) -> None:
        self.training, self.out, self.live = training, out, live
        self.next = 0.0

    def show(self, *, last: bool = False) -> None:
        """Draw the picture anew, unless that was just done."""
        now = time.monotonic()
        if last or now >= self.next:
            self.live.update(frame(self.training, self.out), refresh=True)
            # A slow terminal must not take the time from the training.
            self.next = time.monotonic() + max(1 / FRAMES, time.monotonic() - now)


def train(training: Training, end: float, screen: Screen | None) -> float:
    """Take all steps, or as many as there is time for, and at least one; return the seconds they took."""
    start = time.monotonic()
    while len(training.losses) < training.steps:
        training.step()
        if screen is not None:
            screen.show()
        if time.monotonic() >= end:
            break
    if screen is not None:
        screen.show(last=True)
    return time.monotonic() - start


def frame(training: Training, out: Console) -> RenderableType:
    """Return the picture: what the network decides, its loss, and how far it is."""
    width = min(out.width, WIDEST)
    unicode = has_unicode(out)
    beside = width >= SIDE_BY_SIDE
    lines = max(4, min(14, out.height - (7 if beside else 13), (width - 2) // 2))
    shares = training.decisions(2 * lines, 2 * lines)
    coloured = out.color_system is not None and not out.no_color
    picture = decision_map(shares, training.points, training.arm, coloured=coloured, unicode=unicode)
    columns = width - 2 * lines - 12 if beside else width - 9
    rows = lines - 1 if beside else 5
    drawn = curve(training.losses, training.steps, columns, rows, unicode=unicode)
    loss = Group(Text(f"{'':8}loss (log scale)"[: columns + 8], "dim"), *drawn)
    done = len(training.losses)
    progress = Table.grid(padding=(0, 1))
    text = Text(f"step {done:,}, loss {loss_now(training):.3f}, {training.accuracy():.1%} right")
    progress.add_row(ProgressBar(training.steps, done, width=min(24, max(3, width - len(text) - 1))), text)
    if beside:
        body: RenderableType = Columns([Group(*picture), Padding(loss, (0, 0, 0, 1))], padding=(0, 1))
    else:
        body = Group(*picture, loss)
    return Group(Text(TITLE, "bold"), body, progress)


def loss_now(training: Training) -> float:
    """Return the mean loss of the last turn over all points, as far as it was taken."""
    last = training.losses[-training.arm.size // BATCH :]
    return sum(last) / len(last)


def trained_in_words(training: Training, took: float) -> str:
    """Return what was trained and what came of it."""
    done, each = len(training.losses), training.in_optimizer / len(training.losses)
    text = (
        f"A {'-'.join(map(str, WIDTHS))} network ({training.parameters:,} parameters) took {done:,} steps in "
        f"{took:.1f} s and gets {training.accuracy():.1%} of {training.arm.size} points right. Adam's part of it: "
        f"{readable_time(each)} a step, {training.in_optimizer / took:.1%} of the time."
    )
    if done < training.steps:
        text += (
            f" The time was up after {done:,} of {training.steps:,} steps: this machine is slow or busy, or "
            f"--seconds is small."
        )
    return text


# -------------------- speed


def measured(out: Console, backend: fastadam.Backend, seconds: float) -> speed.Speed:
    """Return this machine's speed; where somebody watches, something moves meanwhile."""
    if not out.is_interactive:
        return speed.measure(backend, seconds)
    with out.status("measuring this machine's speed", spinner="dots" if has_unicode(out) else "line"):
        return speed.measure(backend, seconds)


def show_speed(out: Console, found: speed.Speed, states: dict[fastadam.Backend, str]) -> None:
    """Print bars and sentences."""
    if found.found is not None:
        out.print(Text("This machine's speed: the time of one step", "bold"))
        for problem in found.found["problems"]:
            show_problem(out, problem)
        if found.found["left_out"].get("torch") == "not installed":
            out.print("PyTorch is not installed here: with it, its optimizers would be compared, too.")
    if found.missing:
        what = "This machine's speed" if found.found is None else "The rest"
        out.print(Text(f"{what} was not measured: {found.missing}.", "yellow"))
    if states["c"] != "available":
        out.print(Text(f"The fastest backend is missing: {states['c']}", "yellow"))
    out.print(Text("More sizes, models and optimizers: fastadam bench. Is all well here? fastadam doctor.", "dim"))


def show_problem(out: Console, problem: dict[str, Any]) -> None:
    """Print bars and sentences about one problem."""
    out.print(bars(speed.times(problem), out))
    if problem["machine"]["busy"]:
        others = problem["machine"]["used_by_others"]
        used = "" if others is None else f" (others used {others:.1f} of its processors)"
        late = "these times may be too long, above all where threads are used"
        out.print(Text(f"The machine was busy meanwhile{used}: {late}.", "yellow"))
    for sentence in speed.in_words(problem):
        out.print(Text(sentence))
    out.print()


def bars(seconds: dict[str, float], out: Console) -> Table:
    """Return the times with bars, as long as they are."""
    own = ("fastadam", "fastadam.torch")
    longest = max(seconds.values())
    columns = max(4, min(out.width, WIDEST) - 31)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, each in seconds.items():
        drawn = bar(each / longest, columns, unicode=has_unicode(out))
        table.add_row(Text(name), readable_time(each), Text(drawn, "cyan" if name in own else "dim"))
    return table


def has_unicode(out: Console) -> bool:
    """Return whether more than ASCII can be printed."""
    return out.encoding.lower().startswith("utf")


def _as_json(training: Training, took: float, found: speed.Speed) -> dict[str, Any]:
    return {
        "fastadam": fastadam.__version__,
        "training": {
            "backend": training.optimizer.backend,
            "parameters": training.parameters,
            "steps": len(training.losses),
            "steps_planned": training.steps,
            "seconds": took,
            "seconds_in_optimizer": training.in_optimizer,
            "loss_first": training.losses[0],
            "loss_last": loss_now(training),
            "accuracy": training.accuracy(),
        },
        "speed": found.found,
        "speed_missing": found.missing or None,
    }
