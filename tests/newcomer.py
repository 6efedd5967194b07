"""Walk a newcomer's path: ``python -m tests.newcomer [--quick]``.

Clones the last commit into an empty folder and does what README says: its two commands (the example and the
tests), the demo, and the site with ``mkdocs build --strict``. A line for each step says how long it took; the exit
status is 1 if one fails. ``--quick`` takes one file of the tests instead of all of them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONG = 3600  # seconds that no step comes near to, unless it hangs
SITE = '.venv/bin/pip install -q -e ".[docs]" && .venv/bin/python -m mkdocs build --strict -q'


def commands(readme: str) -> dict[str, str]:
    """Return the steps, by what they are called."""
    marked = dict(re.findall(r"<!-- (\w+) command -->\n```sh\n(.*?)\n```", readme, flags=re.DOTALL))
    (demo,) = re.findall(r"(?m)^\.venv/bin/fastadam demo$", readme)
    return {"the example": marked["example"], "the tests": marked["test"], "the demo": demo, "the site": SITE}


def main() -> int:
    """Take all steps; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one file of the tests")
    quick = parser.parse_args().quick
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if quick:
        environment["PYTEST_ADDOPTS"] = "tests/adam/test_api.py"
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "fastadam"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for what, command in commands((clone / "README.md").read_text()).items():
            print(f"{what}: {command}", flush=True)
            start = time.perf_counter()
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=clone,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LONG,
                check=False,
            )
            last = (done.stdout.strip().splitlines() or [""])[-1]
            print(f"    {time.perf_counter() - start:.0f} s, exit code {done.returncode}: {last}", flush=True)
            if done.returncode:
                print(done.stdout, flush=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
