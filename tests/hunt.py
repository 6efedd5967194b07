"""`python -m tests.hunt --minutes 10` drives the machine of tests/adam/test_stateful.py for that long."""

from __future__ import annotations

import argparse
import time

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from tests.adam.test_stateful import Machine

AT_ONCE = 20  # runs between two looks at the clock


def main() -> None:
    """Hunt for as long as the command line says, and print what was tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    settings = hypothesis.settings(
        max_examples=AT_ONCE,
        stateful_step_count=50,
        derandomize=False,
        database=None,
        # A fault is told as it was met: making it smaller can take longer than the hunt.
        phases=[hypothesis.Phase.generate],
    )
    end, runs = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        run_state_machine_as_test(Machine, settings=settings)
        runs += AT_ONCE
    print(f"{runs} runs, {Machine.rules_run} operations in {minutes:g} minutes: every bit as in the model")


if __name__ == "__main__":
    main()
