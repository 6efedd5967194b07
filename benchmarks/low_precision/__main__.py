"""The command line: see the package."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.low_precision import __doc__ as about
from benchmarks.low_precision import jumps, memory, pictures, tables
from benchmarks.low_precision.runs import Job, load, save, train_all
from benchmarks.low_precision.settings import SETTINGS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "guides" / "low-precision.md"
TASKS = ("ppo", "digits", "transformer", "failures")


def main() -> None:
    """Train, measure and draw what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.low_precision",
        description=(about or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--task", choices=TASKS, nargs="+", default=[], help="train what is not done yet")
    parser.add_argument("--seeds", type=int, default=5, help="how many of each")
    parser.add_argument("--jobs", type=int, default=2, help="how many trainings at once")
    parser.add_argument("--memory", action="store_true", help="measure bytes")
    parser.add_argument("--jumps", action="store_true", help="measure steps after silence")
    parser.add_argument("--table", action="store_true", help="put the table into the page, and print what it says")
    parser.add_argument("--plot", action="store_true", help="draw what is known, beside the file")
    parser.add_argument("--save", type=Path, default=DOCS / "low_precision.json", help="the file of what is known")
    args = parser.parse_args()
    jobs = []
    for name in args.task:
        task = importlib.import_module(f"benchmarks.low_precision.{name}")
        # A seed of all settings before the next one, so that they can be compared early.
        jobs += [Job(name, setting, seed) for seed in range(args.seeds) for setting in task.SETTINGS]
    if jobs:
        train_all(jobs, args.save, args.jobs, lambda text: print(text, flush=True))
    if args.memory:
        save({**load(args.save), "memory": {name: memory.measure(name) for name in SETTINGS}}, args.save)
    if args.jumps:
        save({**load(args.save), "jumps": jumps.measure()}, args.save)
    if args.table:
        known = load(args.save)
        PAGE.write_text(tables.with_table(PAGE.read_text(), known))
        print(tables.table(known), tables.seeds(known), tables.exploded(known), tables.jumps(known), sep="\n")
    if args.plot:
        pictures.draw(load(args.save)["runs"], args.save.parent)


if __name__ == "__main__":
    main()
