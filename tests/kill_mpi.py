"""Kill a random rank of a training run over MPI at random moments, resume it each time, and compare its bits.

``python -m tests.kill_mpi --kills 100`` prints how many kills were survived; it needs no pytest. Each time the run
goes on over another number of ranks, from the checkpoint that it has saved after each step. A run that gets to its
end before all kills are spent is compared with one process, and another one is started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastadam
from tests.mpi.launch import mpiexec

ROOT = Path(__file__).parent.parent
LONG = 120  # seconds that no launch comes near to, unless it hangs
STEPS = 100  # of one run; after each of them it is saved
SHAPES = [(500, 300), (300,), (), (3, 170_000)]
RANKS = (2, 3)


def start(seed: int, module: Any, **options: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Return a run's parameters and optimizer as they are at first."""
    rng = np.random.default_rng(seed)
    params = {f"w{i}": np.asarray(rng.standard_normal(shape), np.float32) for i, shape in enumerate(SHAPES)}
    return params, module.AdamW(params, lr=0.01, amsgrad=True, max_grad_norm=1.0, threads=1, **options)


def train(params: dict[str, np.ndarray], optimizer: Any, seed: int, step: int) -> None:
    """Take one step, with whole numbers as gradients: their mean over two or three ranks is exact."""
    rng = np.random.default_rng([seed, step])
    optimizer.step({name: np.rint(8 * param + rng.standard_normal()) for name, param in params.items()})


def work(path: Path, seed: int, pids: Path) -> None:
    """Train on one rank to the end, from the beginning or from where the checkpoint is; save after each step."""
    from mpi4py import MPI

    import fastadam.mpi

    rank = MPI.COMM_WORLD.rank
    (pids / f"{rank}.pid").write_text(str(os.getpid()))
    params, optimizer = start(seed, fastadam.mpi, timeout=10)
    done = MPI.COMM_WORLD.bcast(path.exists(), 0) and fastadam.load(path, optimizer)["done"]
    for step in range(int(done), STEPS):
        train(params, optimizer, seed, step)
        fastadam.save(path, optimizer, extra={"done": step + 1})


def launch(ranks: int, path: Path, run: int, pids: Path) -> subprocess.Popen[str]:
    """Begin or resume a run."""
    command = [str(mpiexec()), "-n", str(ranks), sys.executable, "-m", "tests.kill_mpi"]
    command += ["--work", str(path), "--run", str(run), "--pids", str(pids)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_one(process: subprocess.Popen[str], ranks: int, pids: Path, chance: random.Random) -> bool:
    """Kill a random rank at a random moment; return whether it was still there."""
    victim = pids / f"{chance.randrange(ranks)}.pid"
    end = time.monotonic() + LONG
    while not (victim.exists() and victim.read_text()) and process.poll() is None:
        assert time.monotonic() < end, "the ranks do not begin"
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=chance.random())
    if process.poll() is not None or not victim.exists():
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(victim.read_text()), signal.SIGKILL)
        return True
    return False


def survive(kills: int, folder: Path, seed: int, say: bool = False) -> int:
    """Kill and resume runs until `kills` kills have happened and the last run is at its end.

    Returns
    -------
    int
        The kills after which the run was resumed, with the right bits in the end.
    """
    chance = random.Random(seed)
    killed = in_mid_save = run = 0
    while True:
        run += 1
        path = folder / f"run{run}.safetensors"
        expected, optimizer = start(run, fastadam)
        for step in range(STEPS):
            train(expected, optimizer, run, step)
        reached = 0
        while True:
            ranks = chance.choice(RANKS)
            with tempfile.TemporaryDirectory() as pids:
                process = launch(ranks, path, run, Path(pids))
                try:
                    was_killed = killed < kills and kill_one(process, ranks, Path(pids), chance)
                    printed, _ = process.communicate(timeout=LONG)
                except subprocess.TimeoutExpired as error:
                    os.killpg(process.pid, signal.SIGKILL)
                    raise AssertionError(f"the ranks hang: {error.output}") from error
            if process.returncode == 0:
                break
            assert was_killed, f"exit code {process.returncode}: {printed}"
            killed += 1
            in_mid_save += any(name.endswith(".tmp") for name in os.listdir(folder))
            if path.exists():  # whole, and no older than before
                _, look = start(run, fastadam)
                done = fastadam.load(path, look)["done"]
                assert done >= reached, "the checkpoint is older than one that was there before"
                reached = done
        params, look = start(run, fastadam)
        assert fastadam.load(path, look) == {"done": STEPS}
        for name, param in params.items():
            assert param.tobytes() == expected[name].tobytes(), f"run {run} ended with other bits of {name}"
        fastadam.save(path, look)
        assert os.listdir(folder) == [path.name]
        path.unlink()
        if say:
            print(
                f"run {run}: the bits of one process; kills so far: {killed}, in mid-save {in_mid_save}",
                flush=True,
            )
        if killed >= kills:
            return killed


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--pids", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.run, given.pids)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{survive(given.kills, Path(folder), given.seed, say=True)} kills survived")


if __name__ == "__main__":
    main()
