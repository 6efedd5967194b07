"""Compare fastadam on an NVIDIA GPU with torch's Adam, fused and foreach, and with the bandwidth of a copy.

All contenders of a case take their steps in turns, in random order, timed by events of the device; figures are
medians over rounds. The share of the bandwidth is what a step reads and writes (28 bytes for each float32
parameter) over its time, as a part of what a copy on the device reaches in the same run. Usage::

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --cases ppo tiny --check     # exit code 1 if a bar is missed

Without a device it says why, and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam
from fastadam.cli import shapes

STEP_BYTES = 28  # of each float32 parameter: four numbers read, three written
HELD_BYTES = 16  # of each parameter, by each contender: itself, its gradient and two moments
COPY_BYTES = 1 << 30
MOST_HOST_TIME = 25e-6  # seconds, of a packed step
FROM_FULL_BANDWIDTH = 100_000_000  # parameters
LEAST_SHARE = 0.95
BASE = "torch fused"


class Case(NamedTuple):
    """A set of shapes; how often to repeat; and how much faster than torch fused the packed step is to be."""

    title: str
    shapes: Callable[[], shapes.Shapes]
    rounds: int
    steps: int
    bar: float


CASES = {
    "ppo": Case("actor + critic, 12 tensors", shapes.ppo_pair, 200, 20, 1.0),
    "tiny": Case("3,000 tiny tensors", shapes.tiny_tensors, 50, 5, 2.0),
    "gpt2": Case("GPT-2 small, 148 tensors", shapes.gpt2_small, 50, 3, 1.0),
    "1e9": Case("1,000,000,000 in one tensor", lambda: [(10**9,)], 10, 2, 1.0),
}


def count(case: Case) -> int:
    """Return the number of parameters."""
    return sum(int(np.prod(shape)) for shape in case.shapes())


# -------------------- on the device


def why_not() -> str | None:
    """Return why nothing can be measured here, or None."""
    state = fastadam.available_backends()["cuda"]
    if state != "available":
        return f"the backend 'cuda' is not available: {state}"
    try:
        import torch
    except ImportError as error:
        return f"torch, which is compared with, cannot be imported ({error})"
    return None if torch.cuda.is_available() else "this build of torch finds no CUDA device"


def contenders(case: Case) -> dict[str, Callable[[], object]]:
    """Return the step of each contender, by name."""
    import torch

    def tensors() -> list[Any]:
        made = [torch.full(shape, 0.5, device="cuda") for shape in case.shapes()]
        for tensor in made:
            tensor.grad = torch.full_like(tensor, 0.1)
        return made

    def packed() -> Callable[[], object]:
        flat = fastadam.pack([torch.full(shape, 0.5, device="cuda") for shape in case.shapes()], device="cuda")
        flat.grad[...] = torch.full((flat.param.size,), 0.1, device="cuda")
        return fastadam.Adam(flat).step

    def in_place() -> Callable[[], object]:
        params = tensors()
        optimizer, grads = fastadam.Adam(params), [param.grad for param in params]
        return lambda: optimizer.step(grads)

    found: dict[str, Callable[[], object]] = {
        BASE: torch.optim.Adam(tensors(), fused=True).step,
        "torch foreach": torch.optim.Adam(tensors(), foreach=True).step,
        "packed": packed(),
        "in place": in_place(),
    }
    try:
        from apex.optimizers import FusedAdam
    except ImportError:
        pass
    else:
        found["apex fused"] = FusedAdam(tensors()).step
    from fastadam.torch import Adam

    face = Adam(tensors())
    try:
        face.step()
    except RuntimeError as error:
        print(f"  fastadam.torch takes no part: {error}")
    else:
        found["torch face"] = face.step
    return found


def seconds(step: Callable[[], object], steps: int) -> float:
    """Return the device's time of one of `steps` consecutive steps."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(steps):
        step()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / steps


def host_seconds() -> float:
    """Return the host's time of a packed step: how long it takes to hand it to the driver."""
    import torch

    step = fastadam.Adam(
        fastadam.pack([np.ones(shape, np.float32) for shape in shapes.ppo_pair()], device="cuda")
    ).step
    times = []
    for _ in range(50):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(100):
            step()
        times.append((time.perf_counter() - start) / 100)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Return the bytes per second that a copy on the device reads and writes."""
    import torch

    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source), 5) for _ in range(20)]
    return 2 * COPY_BYTES / statistics.median(times)


def measure(case: Case) -> dict[str, list[float]] | None:
    """Return the seconds per step of each contender in each round, or None where memory is short."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    if free < 7 * HELD_BYTES * count(case):
        return None
    rng = np.random.default_rng(0)
    steps = contenders(case)
    for step in steps.values():  # compile, make state
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(case.rounds):
        for name in rng.permutation(list(steps)).tolist():  # so that none always follows the same one
            times[name].append(seconds(steps[name], case.steps))
    return times


# -------------------- what follows from the times


def evaluate(case: Case, times: dict[str, list[float]], bandwidth: float) -> dict[str, Any]:
    """Return the figures of one case, and whether its bars are met."""
    parameters = count(case)
    rows = {}
    for name, own in times.items():
        median = statistics.median(own)
        rows[name] = {
            "microseconds": median * 1e6,
            "times_torch_fused": statistics.median(b / t for b, t in zip(times[BASE], own, strict=True)),
            "share_of_bandwidth": STEP_BYTES * parameters / median / bandwidth,
        }
    packed = rows["packed"]
    bars = {f"packed at least {case.bar:g} x {BASE}": packed["times_torch_fused"] >= case.bar}
    if parameters >= FROM_FULL_BANDWIDTH:
        bars[f"packed at least {LEAST_SHARE:.0%} of the bandwidth"] = packed["share_of_bandwidth"] >= LEAST_SHARE
    return {"title": case.title, "parameters": parameters, "contenders": rows, "bars": bars}


def table(found: dict[str, Any]) -> str:
    """Return the figures of one case as text."""
    lines = [f"{found['title']}: {found['parameters']:,} parameters"]
    lines.append(f"  {'contender':16} {'us per step':>12} {'x ' + BASE:>14} {'of bandwidth':>13}")
    for name, row in found["contenders"].items():
        lines.append(
            f"  {name:16} {row['microseconds']:12.1f} {row['times_torch_fused']:14.2f} "
            f"{row['share_of_bandwidth']:13.1%}"
        )
    lines += [f"  {bar}: {'met' if met else 'MISSED'}" for bar, met in found["bars"].items()]
    return "\n".join(lines)


def report(cases: dict[str, Any], host: float, bandwidth: float, device: dict[str, Any]) -> dict[str, Any]:
    """Return all that is written to the JSON file."""
    return {
        "device": device,
        "copy_bytes_per_second": bandwidth,
        "host_microseconds_of_a_packed_step": host * 1e6,
        "bars": {f"host time of a packed step at most {MOST_HOST_TIME * 1e6:g} us": host <= MOST_HOST_TIME},
        "cases": cases,
    }


def all_met(found: dict[str, Any]) -> bool:
    """Whether every bar of a report is met."""
    return all(all(part["bars"].values()) for part in (found, *found["cases"].values()) if "bars" in part)


def describe_device() -> dict[str, Any]:
    """Return what was measured on."""
    import torch

    versions = {name: importlib.metadata.version(name) for name in ("numba-cuda", "cuda-bindings", "torch")}
    device = {"name": torch.cuda.get_device_name(), "cuda_of_torch": torch.version.cuda}
    return {**device, "fastadam": fastadam.__version__, **versions}


def main(arguments: list[str] | None = None) -> int:
    """Run the cases asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"nothing was measured: {reason}", file=sys.stderr)
        return 2
    bandwidth, host = copy_bandwidth(), host_seconds()
    cases: dict[str, Any] = {}
    for name in options.cases:
        times = measure(CASES[name])
        if times is None:
            cases[name] = {"title": CASES[name].title, "skipped": "the device has not enough free memory"}
            print(f"{CASES[name].title}: skipped, {cases[name]['skipped']}\n")
            continue
        cases[name] = evaluate(CASES[name], times, bandwidth)
        print(table(cases[name]) + "\n")
    found = report(cases, host, bandwidth, describe_device())
    for bar, met in found["bars"].items():
        print(f"{bar}: {'met' if met else 'MISSED'} ({host * 1e6:.1f} us)")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if options.check and not all_met(found) else 0


if __name__ == "__main__":
    sys.exit(main())
