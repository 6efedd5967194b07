"""The arithmetic of a step over MPI: memory per rank, and what each rank receives, for 1 to 1,024 ranks.

``python -m benchmarks.mpi_table`` prints the table of docs/guides/more-machines.md. The tests over MPI compare the
functions with what one to four ranks count (tests/mpi/memory.py).
"""

from __future__ import annotations

NUMBERS = 1_000_000_000
RANKS = (1, 2, 4, 8, 16, 64, 256, 1024)
# Bytes per second that a rank can receive, while it sends as many.
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "400 Gbit/s": 50e9}


def state(numbers: int, ranks: int, per_number: float = 8) -> float:
    """Return the bytes of state that a rank has: two moments of float32, by default."""
    return numbers * per_number / ranks


def received(numbers: int, ranks: int, itemsize: int = 4) -> float:
    """Return the bytes that a rank receives in a step.

    That is what the others have of the gradients of its share, and then the parameters of their shares.
    """
    share = numbers / ranks
    return itemsize * (share * (ranks - 1) + (numbers - share))


def table() -> str:
    """Return the table in Markdown."""
    head = [
        "ranks",
        "parameters and gradients",
        "moments",
        "their mean",
        "in all",
        "received in a step",
        *NETWORKS,
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for ranks in RANKS:
        model, moments, mean = 8 * NUMBERS / 1e9, state(NUMBERS, ranks) / 1e9, 4 * NUMBERS / ranks / 1e9
        traffic = received(NUMBERS, ranks)
        times = [f"{traffic / speed:.2f} s" for speed in NETWORKS.values()]
        sizes = [f"{each:.2f} GB" for each in (model, moments, mean, model + moments + mean, traffic / 1e9)]
        lines.append(f"| {' | '.join([f'{ranks:,}', *sizes, *times])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
