"""Whether CUDA can be used here, and why not; the devices, asked of the driver itself."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys

from fastadam.memory.errors import BackendUnavailableError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
OLDEST = (0, 30, 4)  # version of numba-cuda
INSTALL = 'pip install "fastadam[cuda]", or "fastadam[cuda12]" for CUDA 12'


@functools.cache
def why_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if it can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed; {INSTALL}"
    from importlib.metadata import version as version_of  # takes longer to import than all of this package

    version = version_of("numba-cuda")
    if tuple(int(part) for part in version.split(".")[:3] if part.isdecimal()) < OLDEST:
        return f"numba-cuda {version} is older than {'.'.join(map(str, OLDEST))}; {INSTALL}"
    try:
        from numba import cuda
        from numba.cuda.core import config
    except Exception as error:  # a broken install raises all sorts of errors
        return f"numba-cuda cannot be imported ({type(error).__name__}: {error}); {INSTALL}"
    if config.ENABLE_CUDASIM:
        return None
    if config.DISABLE_CUDA:
        return "NUMBA_DISABLE_CUDA is set, so that Numba uses no device; unset it"
    _, reason = devices()
    if reason is not None:
        return f"{reason}; install a driver from nvidia.com, and see that nvidia-smi lists the device"
    try:
        import cuda.bindings as bindings
        from cuda.bindings import nvvm

        nvvm.version()
    except Exception as error:
        return f"NVVM, CUDA's compiler, cannot be loaded ({type(error).__name__}: {error}); {INSTALL}"
    needed = int(bindings.__version__.partition(".")[0])
    found = driver_version()
    if found[0] < needed:
        other = "update the driver" + (', or pip install "fastadam[cuda12]"' if found[0] == 12 else "")
        return f"the NVIDIA driver is for CUDA {found[0]}.{found[1]}, the packages here for CUDA {needed}; {other}"
    if not cuda.is_available():
        return f"Numba cannot start CUDA ({cuda.cuda_error()}); see that nvidia-smi lists the device"
    return None


def check() -> None:
    """Refuse to go on where CUDA cannot be used.

    Raises
    ------
    BackendUnavailableError
        With the reason, and what to do.
    """
    reason = why_missing()
    if reason is not None:
        raise BackendUnavailableError(f"backend 'cuda' is not available: {reason}")


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
