"""How fast a step is here, measured by ``fastadam bench`` in a process that can be ended when the time is up."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import fastadam
from fastadam.cli.contenders import BY_HAND
from fastadam.cli.measure import readable_ratio, readable_time

# First without torch, whose import takes its time: so there is something to show where that takes too long.
PROBLEMS = (["--like", "ppo", "--without", "torch"], ["--like", "ppo"], ["1e6"])
OPTIONS = ["--json", "--without", "optax", "--rounds", "100", "--seconds", "1"]
PLAIN = {  # what the problems are called in a sentence, by the number of their arrays
    12: "the two networks of PPO",
    1: "one large array",
}
# The child imports what this process would import, wherever it was started, and prints a problem once it is done.
CHILD = """
import sys
sys.path[:] = {path!r}
from fastadam.cli.app import app
for problem in {problems!r}:
    code = app(["bench", *problem, *{options!r}], standalone_mode=False)
    sys.stdout.flush()
    if code:
        sys.exit(code)
"""


class Speed(NamedTuple):
    """What ``fastadam bench --json`` found, as far as it came, and why there is no more."""

    found: dict[str, Any] | None
    missing: str = ""


def measure(backend: fastadam.Backend, seconds: float) -> Speed:
    """Measure a small and a large problem in a process of its own, which has so many seconds."""
    if seconds <= 0:
        return Speed(None, "no time was left for it; try fastadam bench, or a larger --seconds")
    code = CHILD.format(path=sys.path, problems=PROBLEMS, options=[*OPTIONS, "--backend", backend])
    missing = ""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=seconds, check=False)
        printed = done.stdout
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            last = said[-1].removeprefix("error: ") if said else f"exit code {done.returncode}"
            missing = f"{last}; fastadam doctor may know more"
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        compiles = " (Numba compiles at its first use)" if backend == "numba" else ""
        missing = f"the time was up after {seconds:.0f} s{compiles}; try fastadam bench"
    found = reports(printed.decode(errors="replace"))
    # A process that had printed all may still have been about to end.
    return Speed(merged(found), "" if len(found) == len(PROBLEMS) else missing)


def reports(text: str) -> list[dict[str, Any]]:
    """Return the reports that a text holds one after the other."""
    decoder = json.JSONDecoder()
    found = []
    while text := text.lstrip():
        try:
            report, end = decoder.raw_decode(text)
        except ValueError:  # the process was ended while it printed
            break
        found.append(report)
        text = text[end:]
    return found


def merged(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return reports as one with all their problems, each as it was measured last; None if there is no report."""
    problems = {problem["title"]: problem for report in found for problem in report["problems"]}
    return {**found[-1], "problems": list(problems.values())} if found else None


def times(problem: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of a step by a plain name, fastest of the library first."""
    medians = {name: each["seconds_per_step"]["median"] for name, each in problem["contenders"].items()}
    found = {}
    for name, seconds in medians.items():
        if name.startswith("packed "):
            found["fastadam"] = seconds
        elif name.startswith("fastadam.torch "):
            found["fastadam.torch"] = seconds
    return found | {name: medians[name] for name in ("torch fused", "torch default", BY_HAND) if name in medians}


def in_words(problem: dict[str, Any]) -> list[str]:
    """Return sentences about the times of a problem, each comparing like with like."""
    seconds = times(problem)
    arrays = f"{problem['arrays']} arrays, " if problem["arrays"] > 1 else ""
    what = f"{PLAIN[problem['arrays']]} ({arrays}{problem['parameters']:,} parameters)"
    said = []
    if "fastadam" in seconds:
        own = seconds["fastadam"]
        text = f"A step over {what} takes {readable_time(own)} here."
        if BY_HAND in seconds:
            text += f" Adam by hand in NumPy takes {compared(own, seconds[BY_HAND])}."
        said.append(text)
    if "fastadam.torch" in seconds:
        own = seconds["fastadam.torch"]
        text = f"In PyTorch it takes {readable_time(own)} with fastadam.torch."
        if "torch default" in seconds and "torch fused" in seconds:
            text += f" torch's own Adam takes {compared(own, seconds['torch default'])}, and with fused=True "
            text += f"{compared(own, seconds['torch fused'])}."
        said.append(text)
    return said


def compared(own: float, other: float) -> str:
    """Return another time, and how it compares with ours; the ratio is that of the two times."""
    ratio = other / own
    if ratio > 1.05:
        how = f"{readable_ratio(ratio)} times as long"
    elif ratio >= 0.95:
        how = "about as long"
    else:
        how = f"only {readable_ratio(ratio)} times as long"
    return f"{readable_time(other)}, {how}"
