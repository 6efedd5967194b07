"""Draw the package as a house with a floor for each layer: ``python docs/make/house.py`` writes docs/house.svg.

The tests compare the picture with this, and the rooms with the table of who may import whom.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT, GAP = 660, 62, 10
PICTURE = Path(__file__).parents[1] / "house.svg"


class Room(NamedTuple):
    """A box of the picture.

    Attributes
    ----------
    names : tuple of str
        The folders and modules in it.
    words : str
        What they are for.
    left, width : float
        In parts of the picture's width.
    floors : int
        How many floors it is high.
    """

    names: tuple[str, ...]
    words: str
    left: float
    width: float
    floors: int = 1


FLOORS: list[list[Room]] = [
    [
        Room(("cli", "__main__"), "the command line", 0, 1 / 2),
        Room(("fastadam",), "the public names", 1 / 2, 1 / 2),
    ],
    [
        Room(("checkpoint",), "save, load", 0, 1 / 5),
        Room(("mpi",), "many processes", 1 / 5, 1 / 5),
        Room(("convert",), "other libraries' state", 2 / 5, 1 / 5),
        Room(("minimizing", "scipy", "sklearn", "thinc", "uncorrected"), "minimize, and the doors", 3 / 5, 2 / 5),
    ],
    [
        Room(("adam", "adamw"), "the face for arrays", 0, 3 / 8),
        Room(("clipping",), "clip_grad_norm", 3 / 8, 1 / 4),
        Room(("torch",), "the face for PyTorch", 5 / 8, 3 / 8, floors=2),
    ],
    [Room(("work",), "from groups and gradients to one plan", 0, 5 / 8)],
    [
        Room(("groups",), "what is optimized, and its state", 0, 1 / 2),
        Room(("backends",), "who takes the step: C, Numba, NumPy, CUDA", 1 / 2, 1 / 2),
    ],
    [Room(("step",), "what a step is: formula, scalars, norm, plan, threads, interrupts", 0, 1)],
    [
        Room(("memory",), "arrays and where they lie, shared structs", 0, 5 / 8),
        Room(("schedules",), "learning rates by step", 5 / 8, 3 / 8),
    ],
]


def draw() -> str:
    """Return the picture as SVG."""
    height = len(FLOORS) * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'text-anchor="middle">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for floor, rooms in enumerate(FLOORS):
        top = GAP + floor * (HEIGHT + GAP)
        for room in rooms:
            left = GAP / 2 + room.left * (WIDTH - GAP) + GAP / 2
            width = room.width * (WIDTH - GAP) - GAP
            tall = room.floors * (HEIGHT + GAP) - GAP
            middle = top + tall / 2
            names = " ".join(name for name in room.names if name not in ("__main__", "uncorrected"))
            parts += [
                f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{tall}" rx="5" fill="#e0f2f1" '
                f'stroke="#00796b"/>',
                f'<text x="{left + width / 2:g}" y="{middle - 5:g}" font-size="17" font-weight="bold" '
                f'fill="#004d40">{escape(names)}</text>',
                f'<text x="{left + width / 2:g}" y="{middle + 16:g}" font-size="13" fill="#263238">'
                f"{escape(room.words)}</text>",
            ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
