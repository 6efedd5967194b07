"""The picture of a benchmark."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fastadam.cli.measure import Result, readable_ratio

OWN, OTHERS, INK, FAINT = "#1f6f8b", "#b9bfc4", "#22282c", "#8a9298"


def draw(results: list[Result], own: set[str], base: str, caption: str, path: Path) -> None:
    """Draw how many times as fast as `base` each contender is: one panel for each problem.

    Parameters
    ----------
    results : list of Result
        All with the same contenders.
    own : set of str
        Names of those that are fastadam's; they stand out.
    base : str
        Whose speed is 1.
    caption : str
        How it was measured.
    path : Path
        Where the picture goes; its suffix says in which format.
    """
    names = list(results[0].seconds)
    rows = -(-len(results) // 2) if len(results) > 1 else 1
    columns = min(len(results), 2)
    width, height = 1.5 + 4.6 * columns, rows * (1.0 + 0.3 * len(names)) + 0.9
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for panel, result in zip(panels, results, strict=False):
        ratios = [result.ratio(base, name) for name in names]
        panel.set_xscale("log")
        least, most = min(min(r.low for r in ratios), 1), max(max(r.high for r in ratios), 1)
        # Bars begin at the base's speed, so that those which are slower reach to the left.
        for place, (name, ratio) in enumerate(zip(names, ratios, strict=True)):
            color = OWN if name in own else OTHERS
            panel.barh(place, ratio.median - 1, left=1, height=0.66, color=color)
            panel.plot([ratio.low, ratio.high], [place, place], color=INK, linewidth=1, alpha=0.7)
            panel.annotate(
                readable_ratio(ratio.median),
                (max(ratio.high, 1), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                fontweight="bold" if name in own else "normal",
                color=INK,
            )
        room = (most / least) ** 0.16  # for the numbers at the right
        panel.set_xlim(least / (most / least) ** 0.03 / 1.02, most * room * 1.1)
        panel.axvline(1, color=INK, linewidth=1)
        panel.set_yticks(range(len(names)), names, fontsize=9, color=INK)
        panel.set_ylim(len(names) - 0.4, -0.6)  # the first one on top
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", which="both", labelsize=8, colors=FAINT)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most / least < 50 else (1,)))
        panel.xaxis.set_major_formatter(lambda x, _: f"{x:,g}×" if x < 1e6 else f"{x:g}×")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(axis="x", color="#e8ebed", linewidth=0.8)
        panel.set_axisbelow(True)
        for side in ("top", "right", "left", "bottom"):
            panel.spines[side].set_visible(False)
        panel.set_title(result.problem.title, fontsize=10, loc="left", color=INK)
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
    figure.supxlabel(caption, fontsize=8, color=FAINT, x=0.01, ha="left")
    figure.savefig(path, dpi=150)


def formats() -> set[str]:
    """Return the suffixes of the files that can be drawn, without the dot."""
    return set(FigureCanvasAgg.get_supported_filetypes())
