"""What the page says of the results: a table of bytes and of what each training came to, and two sentences."""

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
    "stochastic": 'bfloat16 weights, `rounding="stochastic"`, float32 state',
    "stochastic, int8 state": '... and `state_dtype="int8"`',
    "nearest": "bfloat16 weights, nearest, float32 state",
    "all bfloat16, nearest": "... and bfloat16 state, nearest: nothing set",
}
EXPLODED = 100.0  # a loss
TASKS = {"ppo": ".0f", "digits": ".4f", "transformer": ".3f"}


def finals(runs: dict[str, Any], task: str, setting: str) -> list[float]:
    """Return what counts in the end, of each seed."""
    return [run["final"] for run in runs[task][setting].values()]


def is_within(runs: dict[str, Any], task: str, setting: str) -> bool:
    """Whether the mean differs from that of float32 by no more than the standard deviation of float32's seeds."""
    reference = finals(runs, task, REFERENCE)
    return bool(abs(np.mean(finals(runs, task, setting)) - np.mean(reference)) <= np.std(reference, ddof=1))


def table(results: dict[str, Any]) -> str:
    """Return the table in Markdown; what is not within the spread of float32 is bold."""
    runs, memory = results["runs"], results["memory"]
    lines = [
        "| | bytes: weight | optimizer | in all | CartPole: return | digits: loss | transformer: loss |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for setting, label in ROWS.items():
        found = memory[setting]
        cells = [label, *(f"{each:.2f}" for each in (found["weight"], found["optimizer"], sum(found.values())))]
        for task, digits in TASKS.items():
            each = finals(runs, task, setting)
            text = f"{np.mean(each):{digits}} ± {np.std(each, ddof=1):{digits}}"
            cells.append(text if is_within(runs, task, setting) else f"**{text}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_table(page: str, results: dict[str, Any]) -> str:
    """Return the text of the page with the table of these results in place of the one that it has."""
    new = table(results)
    head, columns, *_ = new.splitlines()
    before, after = page.split(f"{head}\n{columns}\n")
    while after.startswith("|"):
        after = after.partition("\n")[2]
    return before + new + after


def seeds(results: dict[str, Any]) -> str:
    """Return how many seeds there are of each task."""
    ppo, digits, transformer = (len(results["runs"][task][REFERENCE]) for task in TASKS)
    return f"{ppo}, {digits} and {transformer} seeds"


def exploded(results: dict[str, Any]) -> str:
    """Return how many trainings explode where roots may be 0."""
    found = finals(results["runs"], "failures", "int8 state, zero roots")
    return f"{sum(each is None or each > EXPLODED for each in found)} of {len(found)} trainings explode"


def jumps(results: dict[str, Any]) -> str:
    """Return what was found of steps after silence."""
    found = results["jumps"]
    return (
        f"The largest of {found['numbers']:,.0f} such steps was {found['int8']:.2f} learning rates, with float32 "
        f"{found['float32']:.2f}. Number by number, the step was {found['median']:.2f} times float32's in the "
        f"median, more than twice in {found['twice']:.1%}, more than six times in {found['six times']:.3%}, and "
        f"{found['largest']:.1f} times at most"
    )
