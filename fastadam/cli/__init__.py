"""The command line: ``fastadam demo``, ``info``, ``doctor`` and ``bench``.

It is a face of the library, which never imports it. What it is built on comes with the extra ``cli``.
"""

from __future__ import annotations

import sys

from fastadam.cli.extra import REMEDY


def main() -> int:
    """Run the command line on ``sys.argv``; return the exit code, unless a command ends the process itself."""
    try:
        import rich  # noqa: F401 - asked for here, so that a missing part is met by a sentence
        import typer  # noqa: F401
    except ImportError as error:
        print(f"fastadam: the command line needs typer and rich ({error}); try: {REMEDY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _stopped()
    try:
        from fastadam.cli.app import app

        app(prog_name="fastadam")
    except KeyboardInterrupt:  # before the commands are there, which end by themselves
        return _stopped()
    return 0


def _stopped() -> int:
    print("fastadam: stopped", file=sys.stderr)
    return 130
