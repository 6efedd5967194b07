"""How much memory this process may still take up."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

# Memory limits of the process' control group: (limit, in use, statistics), of the versions 2 and 1.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def available() -> int | None:
    """Return the bytes that can be had, by the system and by the limits of containers; None where none tells."""
    found = [_system(), *(_control_group(*paths) for paths in CONTROL_GROUPS)]
    return min((number for number in found if number is not None), default=None)


def give_back() -> None:
    """Let go of what is not used any longer, so that `available` counts it again.

    glibc keeps memory of arrays below 32 MiB for later ones and gives it back only when it is asked to.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return


def _system() -> int | None:
    match = re.search(r"MemAvailable: +(\d+) kB", _text("/proc/meminfo"))
    return int(match[1]) * 1024 if match else None


def _control_group(limit: str, used: str, statistics: str) -> int | None:
    most, taken = _text(limit).strip(), _text(used).strip()
    if not most.isdecimal() or not taken.isdecimal():  # "max" means no limit
        return None
    # Files that were read are counted as memory in use, but are let go of as soon as it is needed.
    files = re.search(r"(?m)^(?:total_)?inactive_file (\d+)$", _text(statistics))
    return max(0, int(most) - int(taken) + (int(files[1]) if files else 0))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def readable(nbytes: int) -> str:
    """Return a number of bytes as people write it."""
    number, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"
