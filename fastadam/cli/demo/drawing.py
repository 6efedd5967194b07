"""Pictures made of characters: a map of decisions and a curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

Array = np.ndarray[Any, Any]
COLOURS = np.array([[31, 139, 168], [226, 142, 44], [178, 74, 122]])  # of the three arms
SHADES, ASCII_SHADES = "░▒█", ".+#"  # where there is no colour
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
BLANK = 0x2800


def decision_map(shares: Array, points: Array, arm: Array, *, coloured: bool, unicode: bool) -> list[Text]:
    """Draw what a network decides, and where its points are.

    Parameters
    ----------
    shares : array
        Probabilities by row, column and class, with twice as many rows as there are lines to draw.
    points, arm : array
        Points within the square from -1 to 1, and the class of each; they are drawn where there is colour.
    coloured, unicode : bool
        What the terminal can show.

    Returns
    -------
    list of Text
        Lines.
    """
    rows, columns = shares.shape[:2]
    if not (coloured and unicode):
        shades = SHADES if unicode else ASCII_SHADES
        return [Text("".join(shades[k] for k in line)) for line in shares[::2].argmax(axis=2)]
    colours = 0.62 * shares @ COLOURS  # what it is not sure of is mixed
    across = np.minimum(((points[:, 0] + 1) / 2 * columns).astype(int), columns - 1)
    down = np.minimum(((1 - points[:, 1]) / 2 * rows).astype(int), rows - 1)
    colours[down, across] = np.minimum(1.1 * COLOURS[arm] + 25, 255)
    lines = []
    for upper, lower in zip(colours[::2].astype(int), colours[1::2].astype(int), strict=True):
        line = Text()
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines


def curve(values: list[float], most: int, columns: int, lines: int, *, unicode: bool) -> list[Text]:
    """Draw values on a logarithmic scale, from the left on; the width is that of `most` values.

    Parameters
    ----------
    values : list of float
        At least one, all above zero.
    most : int
        How many there will be.
    columns, lines : int
        Size of the picture, without the numbers at its left, which take eight columns more.
    unicode : bool
        Whether to draw with dots of braille, eight to a character, or with one asterisk each.
    """
    wide, high = (2, 4) if unicode else (1, 1)
    heights = [math.log(value) for value in _by_column(values, most, wide * columns)]
    top, bottom = max(heights), min(heights)
    scale = (high * lines - 1) / max(top - bottom, 1e-9)
    dots = np.zeros((high * lines, wide * columns), bool)
    before = None
    for column, height in enumerate(heights):
        row = round((top - height) * scale)
        before = row if before is None else before
        first, last = min(row, before + 1), max(row, before - 1)  # joined with the column before
        dots[first : last + 1, column] = True
        before = row
    labels = {lines - 1: f"{math.exp(bottom):.2g}", 0: f"{math.exp(top):.2g}"}
    found = []
    for line in range(lines):
        block = dots[line * high : (line + 1) * high]
        text = "".join(_character(block[:, wide * k : wide * (k + 1)], unicode) for k in range(columns))
        found.append(Text.assemble((f"{labels.get(line, ''):>7} ", "dim"), (text, "cyan")))
    return found


def _by_column(values: list[float], most: int, columns: int) -> list[float]:
    """Return the mean of the values that belong to each column, as far as there are any."""
    found = []
    for column in range(columns):
        first, last = column * most // columns, (column + 1) * most // columns
        part = values[first : max(last, first + 1)]  # where there are fewer values than columns, some stand twice
        if not part:
            break
        found.append(sum(part) / len(part))
    return found


def _character(block: Array, unicode: bool) -> str:
    if not unicode:
        return "*" if np.any(block) else " "
    lit: list[int] = [DOTS[row][column] for row, column in np.argwhere(block).tolist()]
    return chr(BLANK + sum(lit))


def bar(share: float, columns: int, *, unicode: bool) -> str:
    """Return a bar that fills this share of the columns, in eighths where the terminal can show them."""
    if not unicode:
        return "#" * max(1, round(share * columns))
    eighths = max(1, round(share * columns * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
