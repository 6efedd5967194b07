"""Installing a commit beside others: in a folder of its own, for the interpreter that runs this."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


class GateError(Exception):
    """One sentence that says what is wrong, and the remedy."""


def commit_of(root: Path, name: str) -> str:
    """Return the full hash of what git calls by that name."""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GateError(f"{name!r} is no commit of this repository; name a hash, a branch or a tag")
    return done.stdout.strip()


def install(root: Path, commit: str, cache: Path) -> Path:
    """Return the folder with the package of a commit, built unless it has been before.

    Its dependencies are those of the running interpreter, for both sides the same.
    """
    # By interpreter too: wheels of two versions of Python are not alike.
    folder = cache / f"{commit[:12]}-{sys.implementation.cache_tag}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        scratch = Path(name)
        subprocess.run(["git", "archive", "--output", scratch / "source.tar", commit], cwd=root, check=True)
        with tarfile.open(scratch / "source.tar") as archive:
            archive.extractall(scratch / "source", filter="data")
        print(f"installing {commit[:12]} ...", file=sys.stderr, flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(scratch / "package"),
        ]
        done = subprocess.run([*command, str(scratch / "source")], capture_output=True, text=True, check=False)
        if done.returncode:
            raise GateError(
                f"{commit[:12]} cannot be installed; without network, install setuptools and cffi and set "
                f"PIP_NO_BUILD_ISOLATION=0\n{done.stderr.strip()}"
            )
        shutil.move(scratch / "package", folder)
    return folder
