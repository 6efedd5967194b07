"""Compare two commits. See ``python -m benchmarks.gate --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gate.compare import compare
from benchmarks.gate.install import GateError, commit_of, install
from benchmarks.gate.rule import TOLERANCE, Verdict

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".asv" / "gate"


def show(verdicts: dict[str, Verdict], left_out: dict[str, str]) -> list[str]:
    """Print what was found; return the cases that are slower."""
    print(f"{'case':32} {'head / base':>12} {'of pairs':>16}")
    for case, (ratio, low, high, slower) in verdicts.items():
        print(f"{case:32} {ratio:12.3f} {f'{low:.3f} to {high:.3f}':>16}{'   SLOWER' if slower else ''}")
    for case, why in left_out.items():
        print(f"{case:32} left out: {why}")
    return [case for case, verdict in verdicts.items() if verdict.slower]


def main() -> int:
    """Do what the arguments say; return the exit code: 0, 1 if head is slower, 2 if it cannot be told."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description="Is HEAD slower than BASE? Then the exit code is 1."
    )
    parser.add_argument("base", metavar="BASE", help="commit to compare with")
    parser.add_argument(
        "head", metavar="HEAD", nargs="?", default="HEAD", help="commit in question (default: HEAD)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"slowdown allowed (default: {TOLERANCE})"
    )
    parser.add_argument(
        "--runs", type=int, default=1, help="compare so often: of a commit with itself, no run may alarm"
    )
    parser.add_argument(
        "--plant", type=float, default=0, metavar="SHARE", help="slow HEAD's steps down by this share"
    )
    options = parser.parse_args()
    alarms = 0
    try:
        base, head = (install(ROOT, commit_of(ROOT, name), CACHE) for name in (options.base, options.head))
        for run in range(options.runs):
            if options.runs > 1:
                print(f"run {run + 1} of {options.runs}")
            verdicts, left_out = compare(base, head, options.tolerance, options.plant)
            if not verdicts:
                raise GateError(f"there is nothing to compare: {left_out}")
            alarms += bool(show(verdicts, left_out))
            sys.stdout.flush()
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.runs > 1:
        print(f"{alarms} of {options.runs} runs alarmed")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
