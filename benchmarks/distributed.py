"""Optimizers over several processes: ``python -m benchmarks.distributed [--ranks 1 2 4] [--check]``.

Three things, on each number of processes (gloo, on this machine):

- the time of a step over 300 small DTensors, ours beside torch's (foreach, fused), in turns;
- the memory that each process needs for parameters, gradients and moments, under DDP, ZeRO and FSDP2;
- the bytes that all processes send in a training step, counted by the loopback device of this machine.

The last two stand beside what the arithmetic says (see `expected`), so that this can be trusted for more processes
than are here. ``--check`` ends with exit code 1 unless ours is at least 5 times as fast as foreach and 2 times as
fast as fused over two processes, and memory and traffic are within 10 % of the arithmetic. ``--table`` prints the
arithmetic alone, for up to 1,024 processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WIDTH, LAYERS, TENSORS, ROUNDS = 512, 8, 300, 15
PARAMETERS = LAYERS * (WIDTH * WIDTH + WIDTH)
ENGINES = ("DDP", "ZeRO", "FSDP2")
LEAST = {"foreach": 5.0, "fused": 2.0}
TOLERANCE = 0.1


def expected(engine: str, ranks: int, parameters: float = PARAMETERS, *, gloo: bool = True) -> tuple[float, float]:
    """Return what a process has in memory, and what it sends in a step, in bytes, for float32 and Adam.

    Parameters
    ----------
    engine : str
    ranks : int
        Processes.
    parameters : float
        Numbers in the model.
    gloo : bool
        Whether gloo communicates.

    Returns
    -------
    memory : float
        Parameters, gradients and two moments, without what is gathered for a while.
    sent : float
        A ring sends ``(ranks - 1) / ranks`` of what it gathers, or scatters, from each process; to reduce to all
        is to scatter and to gather. (gloo reduces to all where it is to scatter.)
    """
    one, ring = 4.0 * parameters, (ranks - 1) / ranks
    if engine == "DDP":  # gradients are reduced to all
        return 4 * one, 2 * ring * one
    if engine == "ZeRO":  # and then each process broadcasts the parameters that it has stepped
        return 2 * one + 2 * one / ranks, 3 * ring * one
    return 4 * one / ranks, (4 if gloo else 3) * ring * one  # parameters gathered twice, gradients scattered


# -------------------- in each of the processes


def step_times() -> dict[str, float]:
    """Return the median time of a step over small DTensors, by optimizer."""
    import torch
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    import fastadam.torch

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))

    def params() -> list[torch.nn.Parameter]:
        found = []
        for _ in range(TENSORS):
            param = torch.nn.Parameter(distribute_tensor(torch.ones(16, 16), mesh, [Shard(0)]))
            param.grad = distribute_tensor(torch.ones(16, 16), mesh, [Shard(0)])
            found.append(param)
        return found

    optimizers: dict[str, Any] = {
        "ours": fastadam.torch.Adam(params()),
        "foreach": torch.optim.Adam(params(), foreach=True),
        "fused": torch.optim.Adam(params(), fused=True),
    }
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    order = random.Random(0)
    for _ in range(ROUNDS + 2):
        for name in order.sample(list(optimizers), len(optimizers)):
            distributed.barrier()
            start = time.perf_counter()
            optimizers[name].step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[2:]) for name, each in times.items()}


def engine(name: str) -> tuple[int, Callable[[], None]]:
    """Return what a process has in memory after a step, and a function that takes another step."""
    import torch
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    import fastadam.torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
    model: Any = torch.nn.Sequential(*layers)
    if name == "FSDP2":
        for layer in layers:
            fully_shard(layer)
        fully_shard(model)
    else:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    zero = name == "ZeRO"
    optimizer: Any = fastadam.torch.Adam(model.parameters())
    if zero:
        optimizer = ZeroRedundancyOptimizer(model.parameters(), fastadam.torch.Adam)
    batch = torch.ones(4, WIDTH)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(batch).square().mean().backward()
        optimizer.step()

    step()
    held = [each for param in model.parameters() for each in (param, param.grad)]
    state = (optimizer.optim if zero else optimizer).state
    held += [value for entry in state.values() for key, value in entry.items() if key != "step"]
    plain = [getattr(each, "_local_tensor", each) for each in held]
    return sum(each.numel() * each.element_size() for each in plain), step


def on_loopback() -> int:
    """Return the bytes that were sent over this machine's loopback device so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split()[9])
    raise RuntimeError("there is no loopback device")


def run_in_process(path: str) -> None:
    """Measure, as one of the processes; the first one writes what was found."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found: dict[str, Any] = {"times": step_times()}
    for name in ENGINES:
        memory, step = engine(name)
        step()
        distributed.barrier()
        before = on_loopback()
        for _ in range(5):
            step()
        distributed.barrier()
        found[name] = memory, (on_loopback() - before) / 5 / distributed.get_world_size()
    if distributed.get_rank() == 0:
        Path(path).write_text(json.dumps(found))
    distributed.destroy_process_group()


# -------------------- outside of them


def launch(ranks: int) -> dict[str, Any]:
    """Measure on so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += ["-m", "benchmarks.distributed", "--inside", str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, cwd=ROOT, env=environment, timeout=600, check=True, stderr=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def print_table() -> None:
    """Print what the arithmetic says of a model of a billion numbers, without gloo, in Markdown."""
    print("| processes |" + "".join(f" {name}: memory, sent |" for name in ENGINES))
    print("|---|" + "---|" * len(ENGINES))
    for ranks in (1, 2, 4, 8, 16, 64, 256, 1024):
        pairs = [expected(name, ranks, 1e9, gloo=False) for name in ENGINES]
        print(f"| {ranks:,} |" + "".join(f" {one / 1e9:.3g} GB, {other / 1e9:.3g} GB |" for one, other in pairs))


def main() -> int:
    """Print what was measured; return 1 if a bar was asked for and is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--check", action="store_true", help="compare with the bars")
    parser.add_argument("--table", action="store_true", help="print the arithmetic of a billion numbers")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.table:
        print_table()
        return 0
    if given.inside:
        run_in_process(given.inside)
        return 0
    failed = []
    for ranks in given.ranks:
        found = launch(ranks)
        times = found["times"]
        print(
            f"{ranks} processes: a step over {TENSORS} small DTensors takes {times['ours'] * 1e3:.2f} ms", end=""
        )
        for name, least in LEAST.items():
            ratio = times[name] / times["ours"]
            print(f"; {ratio:.1f} times as fast as {name}", end="")
            if ranks == 2 and ratio < least:
                failed.append(f"{name}: {ratio:.1f} of {least}")
        print()
        for name in ENGINES:
            measured, predicted = found[name], expected(name, ranks)
            for what, one, other in zip(("memory", "sent"), measured, predicted, strict=True):
                print(f"    {name:6} {what:7} {one / 1e6:8.2f} MB, expected {other / 1e6:8.2f} MB")
                if abs(one - other) > TOLERANCE * max(other, 1e6):
                    failed.append(f"{name} on {ranks}: {what} {one / 1e6:.2f} of {other / 1e6:.2f} MB")
    for each in failed if given.check else ():
        print(f"not met: {each}")
    return bool(failed) and given.check


if __name__ == "__main__":
    sys.exit(main())
