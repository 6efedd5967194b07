"""The CUDA devices, asked of the driver itself: no toolkit and no other package is needed."""

from __future__ import annotations

import ctypes
import sys

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def devices() -> tuple[list[str], str | None]:
    """Return the names of the CUDA devices, and why there are none, or None where there are some."""
    try:
        return _names(ctypes.CDLL(LIBRARY))
    except (OSError, AttributeError):
        return [], f"no NVIDIA driver is installed ({LIBRARY} cannot be loaded)"


def driver_version() -> tuple[int, int]:
    """Return the newest version of CUDA that the driver, which is installed, can run: ``(major, minor)``."""
    number = ctypes.c_int(0)
    ctypes.CDLL(LIBRARY).cuDriverGetVersion(ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def _names(driver: ctypes.CDLL) -> tuple[list[str], str | None]:
    error = driver.cuInit(0)
    count = ctypes.c_int(0)
    if error == 0:
        error = driver.cuDeviceGetCount(ctypes.byref(count))
    if error == NO_DEVICE or (error == 0 and count.value == 0):
        return [], "the NVIDIA driver finds no device"
    if error:
        return [], f"the NVIDIA driver does not start (error {error} of cuInit)"
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        failed = driver.cuDeviceGet(ctypes.byref(device), ordinal) or driver.cuDeviceGetName(name, 256, device)
        names.append("a device that tells no name" if failed else name.value.decode(errors="replace"))
    return names, None
