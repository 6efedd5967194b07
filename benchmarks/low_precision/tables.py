"""The table of the page: bytes, and what each training came to."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.low_precision.settings import REFERENCE

ROWS = {
    "float32": "float32",
    "bfloat16 state": '`state_dtype="bfloat16"`',
    "int8 state": '`state_dtype="int8"`',
    "masters": "bfloat16 weights, `master_weights=True`",
    "masters, int8 state": '... and `state_dtype="int8"`',
    "stochastic": 'bfloat16 weights, `rounding="stochastic"`',
    "stochastic, int8 state": '... and `state_dtype="int8"`',
    "nearest": "bfloat16 weights, nearest",
    "all bfloat16, nearest": "... and bfloat16 state, nearest",
}
TASKS = {"ppo": ".0f", "digits": ".4f", "transformer": ".3f"}


def finals(runs: dict[str, Any], task: str, setting: str) -> list[float]:
    """Return what counts in the end, of each seed."""
    return [run["final"] for run in runs[task][setting].values()]


def is_within(runs: dict[str, Any], task: str, setting: str) -> bool:
    """Whether the mean is not worse than the worst float32 seed, nor better than the best."""
    reference = finals(runs, task, REFERENCE)
    return bool(min(reference) <= np.mean(finals(runs, task, setting)) <= max(reference))


def table(results: dict[str, Any]) -> str:
    """Return the table in Markdown; what is not within the spread of float32 is bold."""
    runs, memory = results["runs"], results["memory"]
    lines = [
        "| | bytes: weight | optimizer | in all | CartPole: return | digits: loss | transformer: loss |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for setting, label in ROWS.items():
        found = memory[setting]
        cells = [label, *(f"{each:.1f}" for each in (found["weight"], found["optimizer"], sum(found.values())))]
        for task, digits in TASKS.items():
            each = finals(runs, task, setting)
            text = f"{np.mean(each):{digits}} ({min(each):{digits}} to {max(each):{digits}})"
            cells.append(text if is_within(runs, task, setting) else f"**{text}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
