"""The command line: its help, wrong arguments, and what it needs."""

from __future__ import annotations

import re
import subprocess
import sys

import fastadam
from fastadam.backends import HOST
from fastadam.cli import bench
from fastadam.cli.app import Backend, Model, Peer
from tests.cli.commands import WITHOUT, process, run
from tests.support.processes import LONG


def test_help_names_all_commands() -> None:
    text = run("--help").output
    assert all(re.search(rf"(?m)^\W*{command}\b", text) for command in ("demo", "info", "bench", "doctor"))
    assert run("--version").output.strip() == f"fastadam {fastadam.__version__}"


def test_choices_are_those_of_the_library() -> None:
    assert [each.value for each in Backend] == list(HOST)
    assert [each.value for each in Model] == list(bench.MODELS)
    assert [each.value for each in Peer] == list(bench.PEERS)


def test_wrong_arguments_are_refused() -> None:
    assert "--like" in run("bench", "--like", "nothing", code=2).output
    run("nothing", code=2)


def test_without_the_extra_there_is_one_sentence() -> None:
    for arguments in ([], ["info"], ["demo"], ["bench", "--help"]):
        done = process(*arguments, path=WITHOUT)
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(r"fastadam: .*needs typer and rich.*pip install 'fastadam\[cli\]'\n", done.stderr)


def test_the_library_imports_none_of_it() -> None:
    code = "import sys, fastadam; print(sorted({'typer', 'rich', 'click', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True)
    assert done.stdout == "[]\n"
