"""Build the dashboard and serve it. See ``python -m benchmarks.dashboard --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.dashboard.build import build
from benchmarks.dashboard.errors import BuildError
from benchmarks.dashboard.serve import make_server

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard", description="Build and serve asv's pages."
    )
    parser.add_argument("--output", type=Path, default=ROOT / ".asv" / "html", help="folder (default: .asv/html)")
    parser.add_argument("--no-serve", action="store_true", help="only build")
    parser.add_argument(
        "--port", type=int, default=8080, help="to serve at, of 127.0.0.1; 0 for any (default: 8080)"
    )
    options = parser.parse_args()
    try:
        commits = build(ROOT, options.output.absolute())
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: results of {commits} commits")
    if options.no_serve:
        return 0
    try:
        server = make_server(options.output, options.port)
    except (OSError, OverflowError) as error:
        print(
            f"error: --port {options.port} cannot be used ({error}); name another, or 0 for any", file=sys.stderr
        )
        return 1
    print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
