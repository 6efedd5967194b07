"""Kill a training run with SIGKILL at random moments, resume it each time, and compare its bits in the end.

``python -m tests.kill_checkpoint --kills 200`` prints how many kills were survived; it needs no pytest. A run that
gets to its end before all kills are spent is compared, and another one is started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import fastadam

ROOT = Path(__file__).parent.parent
LONG = 240  # seconds that no process comes near to, unless it hangs
STEPS = 60  # of one run; after each of them it is saved
SHAPES = [(500, 300), (300,), (), (3, 70_000)]


def start(seed: int) -> tuple[dict[str, np.ndarray], fastadam.Adam]:
    """Return a run's parameters and optimizer as they are at first."""
    rng = np.random.default_rng(seed)
    params = {f"w{i}": np.asarray(rng.standard_normal(shape), np.float32) for i, shape in enumerate(SHAPES)}
    return params, fastadam.AdamW(params, lr=0.01, amsgrad=True)


def train(params: dict[str, np.ndarray], optimizer: fastadam.Adam, seed: int, step: int) -> None:
    """Take one step, with gradients that depend on the parameters and on the step's own random numbers."""
    rng = np.random.default_rng([seed, step])
    optimizer.step({name: param + np.float32(rng.standard_normal()) for name, param in params.items()})


def digest(params: dict[str, np.ndarray], optimizer: fastadam.Adam) -> bytes:
    """Return all bits of a run."""
    state = [array for entry in optimizer.state.values() for array in entry.values()]
    return b"".join(array.tobytes() for array in [*params.values(), *state])


def work(path: Path, seed: int) -> None:
    """Train to the end, from the beginning or from where the checkpoint is; save after each step."""
    params, optimizer = start(seed)
    done = 0
    if path.exists():
        done = fastadam.load(path, optimizer)["done"]
    print(done, flush=True)
    for step in range(done, STEPS):
        train(params, optimizer, seed, step)
        fastadam.save(path, optimizer, extra={"done": step + 1})
    print("end", flush=True)


def survive(kills: int, folder: Path, seed: int, say: bool = False) -> int:
    """Kill and resume runs until `kills` kills have happened and the last run is at its end.

    Returns
    -------
    int
        The kills after which the run was resumed, with the right bits in the end.
    """
    chance = random.Random(seed)
    killed = survived = in_mid_save = 0
    run = 0
    while survived < kills:
        run += 1
        path = folder / f"run{run}.safetensors"
        params, optimizer = start(run)
        for step in range(STEPS):
            train(params, optimizer, run, step)
        expected = digest(params, optimizer)
        reached = -1
        while True:
            command = [sys.executable, "-m", "tests.kill_checkpoint", "--work", str(path), "--run", str(run)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            try:
                assert process.stdout is not None
                if killed < kills and chance.random() < 0.1:  # at any moment of starting and loading
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=chance.random())
                else:
                    assert select.select([process.stdout], [], [], LONG)[0], "the run hangs"
                    done = int(process.stdout.readline())
                    assert done >= reached, "the checkpoint is older than one that was there before"
                    reached = done
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=chance.random() * 0.2 if killed < kills else LONG)
                if process.poll() is None:
                    assert killed < kills, "the run hangs"
                    process.send_signal(signal.SIGKILL)
                process.wait(timeout=LONG)
            finally:
                process.kill()
                process.wait(timeout=LONG)
                if process.stdout is not None:
                    process.stdout.close()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, f"exit code {process.returncode}"
            killed += 1
            in_mid_save += any(name.endswith(".tmp") for name in os.listdir(folder))
        params, optimizer = start(run)
        assert fastadam.load(path, optimizer) == {"done": STEPS}
        assert digest(params, optimizer) == expected, f"run {run} ended with other bits"
        left = [name for name in os.listdir(folder) if name != path.name]
        assert len(left) <= 1, f"temporary files pile up: {left}"  # one, where no save came after the last kill
        fastadam.save(path, optimizer)
        assert os.listdir(folder) == [path.name]
        path.unlink()
        survived = killed
        if say:
            print(
                f"run {run}: the bits of the uninterrupted run; kills so far: {killed}, in mid-save {in_mid_save}",
                flush=True,
            )
    return survived


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{survive(given.kills, Path(folder), given.seed, say=True)} kills survived")


if __name__ == "__main__":
    main()
