"""Compare the known bits under emulators of other processors: ``python -m tests.platforms.emulated``.

Emulated x86-64 processors run this Python and this checkout (installed with ``pip install -e .``). For the others,
Debian's Python and NumPy are unpacked into a folder, and the C extension is compiled for them; nothing of that is
installed. The emulator and the compilers are, where they are missing and this runs as root. It needs a Debian
machine and the mirror that apt has there. The last lines say what was run and what came of it; the exit status is
1 if anything has other bits than it should.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RELEASE = "trixie"  # Debian's first one with a NumPy that fastadam takes
PACKAGES = ["python3-numpy", "python3-cffi-backend", "python3-safetensors", "libgomp1", "libpython3-dev"]


class Machine(NamedTuple):
    """What is emulated.

    Attributes
    ----------
    qemu : str
        The architecture, as qemu names it.
    cpu : str
        The processor, as qemu names it.
    debian : str
        The architecture, as Debian names it; empty where this Python is emulated.
    triplet : str
        The architecture, as folders of libraries name it.
    compiler : str
        The compiler, with options that it needs there; with none, the one that has the triplet in its name.
    """

    qemu: str
    cpu: str
    debian: str = ""
    triplet: str = ""
    compiler: str = ""

    @property
    def emulator(self) -> str:
        """The name of the command."""
        return f"qemu-{self.qemu}-static"

    @property
    def compile(self) -> list[str]:
        """The start of a command that compiles."""
        return (self.compiler or f"{self.triplet}-gcc").split()

    def needs(self) -> dict[str, str]:
        """Return the commands that are needed, each with the package that has it."""
        needs = {self.emulator: "qemu-user-static"}
        if self.debian:
            needs[self.compile[0]] = f"gcc-{self.compile[0].removesuffix('-gcc')}"
        return needs


MACHINES = {
    "nehalem": Machine("x86_64", "Nehalem"),  # no AVX
    "haswell": Machine("x86_64", "Haswell"),  # AVX2 and fused multiply-adds
    "arm64": Machine("aarch64", "max", "arm64", "aarch64-linux-gnu"),
    "s390x": Machine("s390x", "max", "s390x", "s390x-linux-gnu"),  # big-endian
    "armv7": Machine("arm", "cortex-a15", "armhf", "arm-linux-gnueabihf"),  # 32 bits
    "i386": Machine("i386", "max", "i386", "i386-linux-gnu", "i686-linux-gnu-gcc -msse2 -mfpmath=sse"),  # 32 bits
}


def run(command: list[str], **environment: str) -> str:
    """Run a command; return what it printed, or end with that if it failed."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def install(machines: list[Machine]) -> None:
    """Install the commands that are missing, or say which packages have them."""
    needs = {command: package for machine in machines for command, package in machine.needs().items()}
    missing = sorted({package for command, package in needs.items() if shutil.which(command) is None})
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise SystemExit(f"some commands are missing; as root: {' '.join(command)}")
    run(command)


def unpack(machine: Machine, release: str, folder: Path) -> Path:
    """Return a folder with the machine's Python and NumPy, whose packages stay in `folder` for another time."""
    sources = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"])
    if not sources:
        raise SystemExit("apt has no source of Debian's packages on this machine")
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # the list of what is installed: nothing
    (folder / "sources.list").write_text(f"deb {sources.split()[0]} {release} main\n")
    (folder / "apt.conf").write_text(
        f'Dir {{ State "{folder}"; State::status "{folder}/status"; Cache "{folder}"; }};\n'
        f'Dir::Etc {{ sourcelist "{folder}/sources.list"; sourceparts "-"; }};\n'
        f'APT {{ Architecture "{machine.debian}"; Architectures {{ "{machine.debian}"; }}; }};\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    options = {"APT_CONFIG": str(folder / "apt.conf")}
    run(["apt-get", "update"], **options)
    run(["apt-get", "install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES], **options)
    root = folder / "root"
    (root / "usr/lib").mkdir(parents=True, exist_ok=True)
    if not (root / "lib").is_symlink():  # as the package base-files has it
        (root / "lib").symlink_to("usr/lib")
    for package in sorted((folder / "archives").glob("*.deb")):
        run(["dpkg-deb", "--extract", str(package), str(root)])
    return root


def python_in(root: Path) -> Path:
    """Return the machine's Python, whose name ends in its version."""
    return (root / "usr/bin/python3").resolve()


def compile_extension(machine: Machine, root: Path, library: Path) -> None:
    """Compile the C extension for another machine, with the flags that cext/build.py gives it everywhere."""
    compiler = [*machine.compile, f"--sysroot={root}"]
    os.environ["CC"] = " ".join(compiler)  # which cext/build.py tries for OpenMP
    build = runpy.run_path(str(ROOT / "cext/build.py"))
    source = library / "_c.c"
    build["ffibuilder"].emit_c_code(str(source))
    flags = [*build["compile_flags"](), *build["openmp_flags"](), "-shared", "-fPIC", f"-I{ROOT / 'cext'}"]
    sources = [source, *sorted((ROOT / "cext").glob("*.c"))]
    target = library / "fastadam/backends/_c.abi3.so"
    headers = root / "usr/include" / python_in(root).name
    run([*compiler, *flags, f"-I{headers}", *map(str, sources), "-o", str(target), "-lm"])


def prepare(machine: Machine, release: str, folder: Path) -> tuple[list[str], Path, dict[str, str]]:
    """Return the start of a command that runs Python on the machine, the folder to run it in, and variables."""
    command = [machine.emulator, "-cpu", machine.cpu]
    if not machine.debian:
        return [*command, sys.executable], ROOT, {}
    root = unpack(machine, release, folder)
    library = folder / "library"
    shutil.rmtree(library, ignore_errors=True)
    for name in ("fastadam", "tests"):
        shutil.copytree(ROOT / name, library / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    compile_extension(machine, root, library)
    # Not this machine's own libraries; and the two to which only an installation makes links.
    libraries = ":".join(f"{root}/usr/lib/{machine.triplet}/{name}" for name in ("", "blas", "lapack"))
    return [*command, "-L", str(root), str(python_in(root))], library, {"LD_LIBRARY_PATH": libraries}


def watch(command: list[str], folder: Path, variables: dict[str, str]) -> list[str]:
    """Run a command, show its lines as they come, and return them."""
    lines = []
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return lines


def verdict(lines: list[str]) -> tuple[bool, str]:
    """Return whether what `tests.platforms.golden` printed is as it should be, and that in words."""
    known = sum(line.endswith(" golden") for line in lines)
    others = [" ".join(line.split()[:2]) for line in lines if " instead of " in line]
    if not lines or not lines[-1].endswith(" bits"):
        return False, f"broke off after {known} known results"
    if lines[0].endswith("C kernels: none"):
        return False, "the C extension is not there"
    if others:
        return False, f"other bits in {len(others)} of {known + len(others)} results: {', '.join(others)}"
    return known > 0, f"same bits, {known} results"


def main() -> int:
    """Read the arguments, run everything, and say what was run; return 1 if anything has other bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MACHINES, default=list(MACHINES), help="these machines alone")
    parser.add_argument("--backends", nargs="+", default=[], help="these backends alone; Numba compiles for long")
    parser.add_argument("--release", default=RELEASE, help="Debian's, for what is not x86-64 (%(default)s)")
    parser.add_argument("--folder", type=Path, help="keep here what is downloaded and built")
    chosen = parser.parse_args()
    install([MACHINES[name] for name in chosen.only])
    done, wrong = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen.only:
            machine = MACHINES[name]
            folder = (chosen.folder or Path(temporary)).resolve() / f"{name}-{chosen.release}"
            command, where, variables = prepare(machine, chosen.release, folder)
            lines = watch([*command, "-m", "tests.platforms.golden", *chosen.backends], where, variables)
            right, words = verdict(lines)
            wrong += not right
            version = run([machine.emulator, "--version"]).split()[2]
            done += [f"{name}: {words}", f"  qemu {version} -cpu {machine.cpu}; {''.join(lines[:1])}"]
    print("\nWhat was run:", *done, sep="\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
