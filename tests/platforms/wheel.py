"""Build one wheel, and test it under every CPython that is there: ``python -m tests.platforms.wheel``.

Each interpreter gets a fresh environment with the wheel and the tests, but not the source. A line for each says
its version and what its tests came to; the exit status is 1 if the wheel fails under any of them. An interpreter
that is not there is not missed.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MINORS = range(10, 20)
OLDEST = ["numpy==1.26.0", "numba==0.60.0", "cffi==1.16.0"]  # as in pyproject.toml; on Python 3.10
EPOCH = "1700000000"  # any moment, in seconds; the same for both builds
SMOKE = [
    f"tests/{name}.py"
    for name in ("step/test_golden", "backends/test_backends", "work/test_native_check", "groups/test_state")
]
SMOKE_NEEDS = ["safetensors", "hypothesis", "mpmath", "pytest", "pytest-timeout", "pytest-xdist"]


def interpreters() -> list[str]:
    """Return the newest CPython of each minor version, of those on the path and those that pyenv holds."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found: dict[str, str] = {}
    for minor in MINORS:
        candidates = sorted(glob.glob(f"{pyenv}/versions/3.{minor}.*/bin/python3.{minor}"))
        candidates.append(shutil.which(f"python3.{minor}") or "")
        for candidate in candidates:
            if candidate and run([candidate, "-c", "import venv, ensurepip"], check=False)[0] == 0:
                found.setdefault(f"3.{minor}", candidate)
    return list(found.values())


def run(command: list[str], check: bool = True, **options: object) -> tuple[int, str]:
    """Run a command; return its exit status and what it printed."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3000, **options
        )  # type: ignore[call-overload]
    except OSError as error:
        return 127, str(error)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.returncode, done.stdout


def build(folder: Path) -> Path:
    """Build the sdist and, from it, the wheel; check both; return the wheel."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    tracked = run(["git", "ls-files", "-z"], cwd=ROOT)[1].split("\0")[:-1]
    source = folder / "source"
    for name in tracked:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    wheels = []
    for number in ("first", "second"):
        out = folder / number
        run([sys.executable, "-m", "build", "--outdir", str(out), str(source)], env=environment)
        wheels += list(out.glob("*.whl"))
    first, second = wheels
    if first.read_bytes() != second.read_bytes():
        raise SystemExit("two builds of the wheel differ")
    with zipfile.ZipFile(first) as archive:
        if "fastadam/backends/_c.abi3.so" not in archive.namelist():
            raise SystemExit("the wheel holds no extension for the stable ABI; the C compiler has failed")
    if not re.search(r"-cp310-abi3-\w+\.whl$", first.name):
        raise SystemExit(f"{first.name} is no wheel for the stable ABI")
    run([sys.executable, "-m", "twine", "check", "--strict", *map(str, first.parent.iterdir())])
    run([sys.executable, "-m", "abi3audit", "--strict", str(first)])
    print(f"{first.name}: {first.stat().st_size:,} bytes, the same in two builds", flush=True)
    return first


def test(python: str, wheel: Path, pins: list[str], smoke: bool) -> bool:
    """Test the wheel in a fresh environment of `python`, print a line, and return whether all passed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = str(folder / "venv/bin/python")
        run([python, "-m", "venv", str(folder / "venv")])
        needs = [f"{wheel}", *SMOKE_NEEDS] if smoke else [f"{wheel}[test]"]
        run([own, "-m", "pip", "install", "--quiet", *needs, *pins])
        for part in ("tests", "examples", "benchmarks", "docs"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / part, folder)
        versions = run(
            [
                own,
                "-c",
                "import platform, numpy, numba, cffi; print(f'CPython {platform.python_version()}, NumPy "
                "{numpy.__version__}, Numba {numba.__version__}, cffi {cffi.__version__}')",
            ]
        )[1]
        environment = {**os.environ, "FASTADAM_PROMISED_BACKENDS": "c numba numpy"}
        tests = [*SMOKE] if smoke else []
        pytest = [own, "-m", "pytest", "-q", "-n", "2", "-m", "not slow", *tests]
        status, printed = run(pytest, check=False, cwd=folder, env=environment)
        print(f"{versions.strip()}: {printed.strip().splitlines()[-1].strip('= ')}", flush=True)
        if status:
            print(printed, flush=True)
        return status == 0


def main() -> int:
    """Read the arguments and do it all; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="test this one instead of building one")
    parser.add_argument("--smoke", action="store_true", help="fewer tests: the bits, the backends, the state")
    parser.add_argument(
        "--most", type=int, default=99, help="at most so many interpreters, other ones than this first"
    )
    parser.add_argument("python", nargs="*", help="interpreters, instead of all that are found")
    chosen = parser.parse_args()
    ours = f"python3.{sys.version_info.minor}"
    found = chosen.python or sorted(interpreters(), key=lambda path: path.endswith(ours))[: chosen.most]
    with tempfile.TemporaryDirectory() as folder:
        wheel = chosen.wheel.resolve() if chosen.wheel else build(Path(folder))
        passed = [test(python, wheel, [], chosen.smoke) for python in found]
        if not chosen.smoke:
            passed += [test(each, wheel, OLDEST, False) for each in found if each.endswith("python3.10")]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
