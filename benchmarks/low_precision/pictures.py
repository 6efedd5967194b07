"""Draw how trainings went: the mean of the seeds, and from the least to the greatest of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, StrMethodFormatter

import benchmarks.low_precision.settings  # noqa: F401  (finds the examples)

from _style import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save  # isort: skip


class Line(NamedTuple):
    """How a setting is drawn."""

    label: str
    color: str
    style: Any = "-"


class Panel(NamedTuple):
    """A task: what its picture says, between which values (None: as they come), and if each seed has a line."""

    task: str
    title: str
    low: float | None
    high: float | None
    log: bool = False
    apart: bool = False


FLOAT32 = Line("float32", GREY)
STATE = {
    "float32": FLOAT32,
    "bfloat16 state": Line("bfloat16 state", BLUE, "--"),
    "int8 state": Line("int8 state", ORANGE, ":"),
}
WEIGHTS = {
    "float32": FLOAT32,
    "masters": Line("bfloat16 weights with masters", BLUE, "--"),
    "masters, int8 state": Line("... and int8 state", BLUE, ":"),
    "stochastic": Line("bfloat16 weights, stochastic", GREEN, "--"),
    "stochastic, int8 state": Line("... and int8 state", GREEN, ":"),
    "nearest": Line("bfloat16 weights, nearest", RED),
    "all bfloat16, nearest": Line("... and state, all nearest", RED, "--"),
}
MOMENTS = {
    "float32": FLOAT32,
    "bfloat16 state": Line("bfloat16 state (at random)", BLUE, "--"),
    "bfloat16 state, nearest": Line("bfloat16 state, nearest", RED),
}
ROOTS = {
    "int8 state, zero roots": Line("int8 state, roots may be 0", RED),
    "float32": FLOAT32,
    "int8 state": Line("int8 state (roots never 0)", BLUE, "--"),
}
PPO = Panel("ppo", "PPO on CartPole: return", 0, 520)
DIGITS = Panel("digits", "Digits: training loss", 0.02, 2, log=True)
TRANSFORMER = Panel("transformer", "Transformer: loss, held out", 1.4, 2.3)
LONG = Panel("failures", "Digits, longer: training loss", 2e-3, 0.5, log=True)
EXPLODES = Panel("failures", "The same: each seed", 1e-3, None, log=True, apart=True)

PICTURES: dict[str, list[tuple[Panel, dict[str, Line]]]] = {
    "state": [(each, STATE) for each in (PPO, DIGITS, TRANSFORMER)],
    "weights": [(each, WEIGHTS) for each in (PPO, DIGITS, TRANSFORMER)],
    "failures": [(LONG, MOMENTS), (EXPLODES, ROOTS)],
}


def draw(runs: dict[str, Any], folder: Path) -> None:
    """Draw all pictures, ``low-precision-NAME.png``, in a folder."""
    for name, panels in PICTURES.items():
        figure = new_figure(3.6 if name == "weights" else 2.9)
        axes = figure.subplots(1, len(panels))
        for ax, (panel, lines) in zip(axes, panels, strict=True):
            _draw_one(ax, runs[panel.task], panel, lines)
            if name == "failures":
                ax.legend(fontsize=8, loc=(0.4, 0.14) if panel.apart else "upper right")  # where no line is
        if name != "failures":
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5)
        save(figure, folder / f"low-precision-{name}.png")


def _draw_one(ax: Axes, runs: dict[str, Any], panel: Panel, lines: dict[str, Line]) -> None:
    for name, line in lines.items():
        curves = np.array([run["curve"] for run in runs[name].values()], float)
        x = np.arange(1, curves.shape[1] + 1) / curves.shape[1] * 100
        look: dict[str, Any] = {"color": line.color, "linestyle": line.style, "lw": 1.6}
        if line is FLOAT32:
            look.update(lw=3.5, alpha=0.6)
        if panel.apart:
            first, *_ = ax.plot(x, curves.T, **{**look, "lw": look["lw"] / 2})
            first.set_label(line.label)
            continue
        ax.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=line.color, alpha=0.15, lw=0)
        middle = np.exp(np.log(curves).mean(axis=0)) if panel.log else curves.mean(axis=0)
        ax.plot(x, middle, label=line.label, **look)
    if panel.log:
        ax.set_yscale("log")
        if panel.high is not None:
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="% of the training", ylim=(panel.low, panel.high))
    ax.set_title(panel.title, fontsize=10)
