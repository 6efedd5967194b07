"""The front page: a curve for every case, with units, which way is better, and notes."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from benchmarks.dashboard.cases import NOTICED, Case, Note
from fastadam.cli.measure import readable_time
from fastadam.cli.memory import readable

PAGE = Path(__file__).parent / "front.html"
WIDTH, HEIGHT, EDGE = 200, 34, 5  # of a curve, in pixels
UNITS: dict[str, Callable[[float], str]] = {
    "seconds": readable_time,
    "bytes": lambda value: readable(int(value)),
    "GB/s": lambda value: f"{value:.3g} GB/s",
    "ulp": lambda value: f"{value:.3g} ulp",
}


class Commit(NamedTuple):
    """A commit that was measured."""

    name: str
    date: str
    subject: str


def page(places: dict[str, list[Case]], commits: list[Commit], notes: list[Note], graphs: str) -> str:
    """Return the page.

    Parameters
    ----------
    places : dict of list of Case
        The cases by machine and environment.
    commits : list of Commit
        Those that were measured, in order.
    notes : list of Note
        What has to be known about them.
    graphs : str
        Where asv's own pages begin.
    """
    order = {commit.name: place for place, commit in enumerate(commits)}
    numbered = sorted(enumerate(notes), key=lambda each: order.get(each[1].commit, len(order)))
    numbers = {original: number for number, (original, _) in enumerate(numbered, 1)}
    marked = [(numbers[k], note) for k, note in enumerate(notes) if note.commit in order]
    body = "".join(_place(place, cases, commits, marked, graphs) for place, cases in places.items())
    names = dict.fromkeys(case.benchmark for cases in places.values() for case in cases)
    contents = " ".join(f'<a href="#{html.escape(name)}">{html.escape(_title(name))}</a>' for name in names)
    history = "".join(_row_of_commit(commit, marked) for commit in commits)
    template = Template(PAGE.read_text(encoding="utf-8"))
    return template.substitute(
        contents=contents, history=history, body=body, graphs=graphs, noticed=f"{NOTICED:.0%}"
    )


def readable_value(value: float, unit: str) -> str:
    """Return a value with its unit, or, of a long unit, without: the heading has it."""
    return UNITS[unit](value) if unit in UNITS else f"{value:.3g}"


def _title(name: str) -> str:
    module, _, method = name.rpartition(".")
    return f"{module.rpartition('.')[2]}: {method.partition('_')[2].replace('_', ' ')}"


def _row_of_commit(commit: Commit, notes: list[tuple[int, Note]]) -> str:
    said = "".join(
        f'<p id="note-{number}"><b>[{number}] {note.kind}:</b> {html.escape(note.text)}</p>'
        for number, note in sorted(notes)
        if note.commit == commit.name
    )
    return (
        f"<tr><td><code>{commit.name[:8]}</code></td><td class='wide number'>{html.escape(commit.date)}</td>"
        f"<td>{html.escape(commit.subject)}{said}</td></tr>"
    )


def _place(
    place: str, cases: list[Case], commits: list[Commit], notes: list[tuple[int, Note]], graphs: str
) -> str:
    found = [f"<h2>{html.escape(place)}</h2>"]
    for name, group in groupby(cases, key=lambda case: case.benchmark):
        of_it = list(group)
        better = "higher is better ↑" if of_it[0].rises else "lower is better ↓"
        rows = "".join(_row(case, commits, notes) for case in of_it)
        params = html.escape(", ".join(of_it[0].params))
        found.append(
            f'<section id="{html.escape(name)}"><h3>{html.escape(_title(name))}'
            f"<span class=unit>{html.escape(of_it[0].unit)}, <b>{better}</b></span></h3>"
            f'<p class=more><a href="{graphs}#{quote(name)}">{html.escape(name)} in asv\'s graphs</a></p>'
            f"<table><thead><tr><th>{params}<th>history<th class=number>latest<th class='number wide'>best"
            f"<th class=number>to best<th>notes</thead><tbody>{rows}</tbody></table></section>"
        )
    return "".join(found)


def _row(case: Case, commits: list[Commit], notes: list[tuple[int, Note]]) -> str:
    about = sorted((number, note) for number, note in notes if note.is_about(case))
    latest, best = case.points[case.latest], case.points[case.best]
    if len(case.points) == 1:
        change, kind = "first value", "same"
    elif case.worse > NOTICED:
        change, kind = f"{case.worse:.0%} worse", "worse"
    else:
        change, kind = ("best" if case.worse == 0 else f"within {NOTICED:.0%}"), "same"
    choice = ", ".join(f"{int(text):,}" if text.isdecimal() else text for text in case.choice)
    links = " ".join(f'<a href="#note-{number}">[{number}]</a>' for number, _ in about)
    return (
        f"<tr><td>{html.escape(choice)}</td><td>{curve(case, commits, [n for _, n in about])}</td>"
        f"<td class=number>{html.escape(readable_value(latest, case.unit))}</td>"
        f"<td class='number wide'>{html.escape(readable_value(best, case.unit))} <code>{case.best[:8]}</code></td>"
        f"<td class='number {kind}'>{change}</td><td>{links}</td></tr>"
    )


def curve(case: Case, commits: list[Commit], notes: list[Note]) -> str:
    """Return a small picture of a case: all commits from left to right, values on a logarithmic scale."""
    values = {commit: math.log(max(value, 1e-12)) for commit, value in case.points.items()}
    low, high = min(values.values()), max(values.values())
    middle, half = (low + high) / 2, max((high - low) / 2, math.log(1.1))  # noise does not fill the picture
    places = []
    for number, commit in enumerate(commits):
        if commit.name in values:
            x = EDGE + (WIDTH - 2 * EDGE) * number / max(len(commits) - 1, 1)
            y = HEIGHT / 2 - (HEIGHT / 2 - EDGE) * (values[commit.name] - middle) / half
            places.append((x, y, commit))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    noted = {note.commit for note in notes}
    dots = "".join(
        f"<circle cx={x:.1f} cy={y:.1f} r={3.2 if commit.name in noted else 2}"
        f"{' class=noted' if commit.name in noted else ''}><title>{commit.name[:8]}, {html.escape(commit.date)}: "
        f"{html.escape(readable_value(case.points[commit.name], case.unit))}</title></circle>"
        for x, y, commit in places
    )
    spoken = html.escape(f"{len(places)} values of {case.name}", quote=True)
    return (
        f'<svg width={WIDTH} height={HEIGHT} viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{spoken}">'
        f'<polyline points="{line}"/>{dots}</svg>'
    )
