"""Draw README's picture: the time of a step over three models, beside other optimizers.

``python -m benchmarks.picture`` reads `docs/speed.json`, which this prints, on a machine that does nothing else::

    fastadam bench --like ppo --like tiny --like gpt2 --backend c --seconds 300 --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastadam.cli.bench import readable_time
from fastadam.cli.plot import INK, OTHERS, OWN

DOCS = Path(__file__).parents[1] / "docs"
# What the measurement calls them, and what the picture does; fastadam's first, in the order of the bars.
NAMES = {
    "packed c": "fastadam, packed arrays",
    "in place c": "fastadam, your own arrays",
    "fastadam.torch c": "fastadam.torch",
    "torch fused": "torch, fused=True",
    "torch default": "torch",
    "optax": "optax",
    "NumPy by hand": "NumPy by hand",
}
OURS = 3
TITLES = ("PPO: actor and critic", "3,000 small arrays", "GPT-2 small")


def draw(measured: dict[str, Any], path: Path) -> None:
    """Draw a panel for each problem, with a bar for each contender, on scales of their own from zero.

    Parameters
    ----------
    measured : dict
        As ``fastadam bench --json`` prints it, with three problems.
    path : Path
        Of the picture.
    """
    figure = Figure(figsize=(11, 2.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for panel, problem, title in zip(panels, measured["problems"], TITLES, strict=True):
        seconds = [problem["contenders"][name]["seconds_per_step"]["median"] for name in NAMES]
        most = max(seconds)
        for place, each in enumerate(seconds):
            own = place < OURS
            panel.barh(place, each, height=0.68, color=OWN if own else OTHERS)
            panel.annotate(
                readable_time(each),
                (each, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                fontweight="bold" if own else "normal",
                color=INK,
            )
        panel.set_xlim(0, most * 1.25)
        panel.set_ylim(len(seconds) - 0.4, -0.6)  # the first one on top
        panel.set_yticks(range(len(NAMES)), NAMES.values(), fontsize=9.5, color=INK)
        for label in panel.get_yticklabels()[:OURS]:
            label.set_fontweight("bold")
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.spines["left"].set_color(OTHERS)
        arrays, parameters = problem["arrays"], problem["parameters"]
        panel.set_title(f"{title}\n", fontsize=11, fontweight="bold", color=INK, loc="left")
        panel.text(
            0,
            1.03,
            f"{arrays:,} arrays, {parameters:,} numbers",
            transform=panel.transAxes,
            fontsize=8.5,
            color="#5c656b",
        )
    figure.suptitle("Time of one Adam step (shorter is better)", fontsize=11, color=INK, x=0.005, ha="left")
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, default=DOCS / "speed.json", help="What was measured.")
    parser.add_argument("--plot", type=Path, default=DOCS / "speed.png", help="Where the picture goes.")
    given = parser.parse_args()
    draw(json.loads(given.measured.read_text()), given.plot)


if __name__ == "__main__":
    main()
