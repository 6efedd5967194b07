"""What the command lines of the examples share."""

from __future__ import annotations

import argparse
from pathlib import Path


def make_parser(description: str, picture: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every example has: ``--seed`` and ``--plot``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seed", type=natural, default=0, help="decides everything random")
    parser.add_argument("--plot", type=Path, default=Path(picture), help="image to write")
    return parser


def natural(text: str) -> int:
    """Read a whole number that is not negative."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return number


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number
