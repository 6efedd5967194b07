"""The picture of a benchmark."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fastadam.cli.measure import Result, readable_ratio
from fastadam.cli.report import BASES, Report, busy, own_names

OWN, OTHERS, INK, FAINT, WARNING = "#1f6f8b", "#b9bfc4", "#22282c", "#8a9298", "#b3541e"


def draw(report: Report, names: list[str], path: Path) -> None:
    """Draw how many times as fast as another optimizer each contender is: one panel for each problem.

    Parameters
    ----------
    report : Report
        What was measured, with at least one result.
    names : list of str
        Of all contenders, in order. Who was left out of a problem has no bar in its panel, and the reason instead.
    path : Path
        Where the picture goes; its suffix says in which format.
    """
    results = report.results
    base = most_common_base(results)
    rows = -(-len(results) // 2) if len(results) > 1 else 1
    columns = min(len(results), 2)
    width, height = 1.5 + 4.6 * columns, rows * (1.15 + 0.3 * len(names)) + 0.9
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for panel, result in zip(panels, results, strict=False):
        _draw_one(panel, result, names, base)
    for panel in panels[len(results) :]:
        panel.remove()
    figure.suptitle(
        f"Speed of an Adam step, as a multiple of {base}",
        fontsize=12,
        fontweight="bold",
        color=INK,
        x=0.01,
        ha="left",
    )
    caption = f"{report.how_measured()}. Right of 1 is faster. Thin lines: quartiles over the rounds."
    if report.not_measured:
        caption += f"\nNot measured, for want of memory: {'; '.join(report.not_measured)}."
    figure.supxlabel(caption, fontsize=8, color=FAINT, x=0.01, ha="left")
    figure.savefig(path, dpi=150)


def most_common_base(results: list[Result]) -> str:
    """Return which contender the others are compared with: one that took part in as many problems as possible."""
    order = ("torch fused", *(base for base in BASES if base != "torch fused"))
    count = {base: sum(base in result.seconds for result in results) for base in order}
    return max(count, key=lambda base: count[base])  # the first of those with as many


def _draw_one(panel: Any, result: Result, names: list[str], base: str) -> None:
    own = own_names(names)
    ratios = {name: result.ratio(base, name) for name in result.seconds if base in result.seconds}
    panel.set_xscale("log")
    least = min([1.0, *(ratio.low for ratio in ratios.values())])
    most = max([1.1, *(ratio.high for ratio in ratios.values())])
    # Bars begin at the base's speed, so that those which are slower reach to the left.
    for place, name in enumerate(names):
        text, right, color = _why_missing(result, name, base), 1.0, FAINT
        if name in ratios:
            ratio = ratios[name]
            panel.barh(place, ratio.median - 1, left=1, height=0.66, color=OWN if name in own else OTHERS)
            panel.plot([ratio.low, ratio.high], [place, place], color=INK, linewidth=1, alpha=0.7)
            text, right, color = readable_ratio(ratio.median), max(ratio.high, 1), INK
        panel.annotate(
            text,
            (right, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            fontweight="bold" if name in own and name in ratios else "normal",
            color=color,
        )
    room = (most / least) ** 0.16  # for the numbers at the right
    panel.set_xlim(least / (most / least) ** 0.03 / 1.02, most * room * 1.1)
    panel.axvline(1, color=INK, linewidth=1)
    panel.set_yticks(range(len(names)), names, fontsize=9, color=INK)
    panel.set_ylim(len(names) - 0.4, -0.6)  # the first one on top
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", which="both", labelsize=8, colors=FAINT)
    panel.tick_params(axis="x", which="minor", length=0)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most / least < 50 else (1,)))
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:,g}×" if x < 1e6 else f"{x:g}×")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="x", color="#e8ebed", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        panel.spines[side].set_visible(False)
    panel.set_title(result.problem.title, fontsize=10, loc="left", color=INK, pad=30 if result.machine.busy else 6)
    if result.machine.busy:
        warning = textwrap.fill(busy(result), 64)
        panel.text(0, 1.02, warning, transform=panel.transAxes, fontsize=8, color=WARNING, va="bottom")


def _why_missing(result: Result, name: str, base: str) -> str:
    if name in result.left_out:
        return "left out: not enough memory"
    return f"no ratio: {base} is left out" if base not in result.seconds else ""


def formats() -> set[str]:
    """Return the suffixes of the files that can be drawn, without the dot."""
    return set(FigureCanvasAgg.get_supported_filetypes())
