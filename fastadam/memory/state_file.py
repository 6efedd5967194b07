"""State on disk: buffers of moments that lie in one memory-mapped file, which is removed with the optimizer.

The file is working memory and no checkpoint: it says in its first page what it is, and nothing of what lies where.
"""

from __future__ import annotations

import bisect
import contextlib
import importlib
import mmap
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastadam.memory.arrays import Array, address

fcntl: Any = None
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")

# What the file begins with, so that nobody's file is taken for one that a killed process has left behind.
MAGIC = (
    b"fastadam state on disk, version 1: working memory of a process, no checkpoint; may be removed without it\n"
)
# Regions begin at multiples of it, as mappings and huge pages of any system ask for.
ALIGNMENT = max(1 << 16, mmap.ALLOCATIONGRANULARITY)


# What names a file.
FilePath: TypeAlias = str | os.PathLike[str]


class Region(NamedTuple):
    """One buffer in the file.

    Attributes
    ----------
    start, end : int
        The addresses between which it is mapped.
    offset : int
        Where it begins in the file.
    dtype : dtype
        Of its numbers.
    """

    start: int
    end: int
    offset: int
    dtype: np.dtype[Any]


class StateFile:
    """One file of buffers, locked against others, which is removed when it is closed.

    Parameters
    ----------
    path : str or path-like
        Must not exist, or be empty, or one of these files that no process holds, which a killed one has left.

    Attributes
    ----------
    path : str
        Absolute.
    fd : int
        The file's. Reading and writing it sees what is written by way of the mappings, and the other way round.
    size : int
        Of the file, in bytes. It is sparse until it is first written.

    Raises
    ------
    TypeError
        If the path is none.
    OSError
        If the file cannot be made: also BlockingIOError where another process, or optimizer, has it, and
        FileExistsError where it is somebody's file.
    """

    def __init__(self, path: FilePath) -> None:
        if fcntl is None or not hasattr(os, "preadv") or not hasattr(os, "posix_fallocate"):
            raise OSError(
                "state_path needs Linux, or another system with flock, preadv and posix_fallocate; leave "
                "state_path=None, and state_dtype='int8' if memory is short"
            )
        try:
            name = os.fspath(path)
        except TypeError:
            name = None
        if not isinstance(name, str) or not name or "\0" in name:
            raise TypeError(
                f"state_path must be the path of a file, got {path!r}; give one on a disk with room for it"
            )
        self.path = os.path.abspath(name)
        self.fd = _open_locked(self.path)
        self.size = ALIGNMENT
        self.broken: str | None = None
        self._pid = os.getpid()
        self._in_use = False  # from then on, its blocks are reserved on the disk
        self._regions: dict[int, tuple[Region, weakref.ref[Any]]] = {}  # by their starts
        self._sorted: list[int] = []
        self._lock = threading.RLock()
        identity = os.fstat(self.fd)
        self.close = weakref.finalize(
            self, _remove, self.path, self.fd, (identity.st_dev, identity.st_ino), self._pid
        )
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, MAGIC, 0)
            os.ftruncate(self.fd, self.size)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<StateFile {self.path!r}, {self.size} bytes>"

    def zeros(self, size: int, dtype: np.dtype[Any], role: str) -> Array:
        """Return zeros in a region of their own (see `Device.zeros`), where another one was, or at the file's end.

        Raises
        ------
        OSError
            If the file cannot grow so far, or the disk has not that much room.
        """
        nbytes = size * dtype.itemsize
        if not nbytes:
            return np.zeros(size, dtype)
        with self._lock:
            room = -(-nbytes // ALIGNMENT) * ALIGNMENT
            offset, before = self._gap(room), self.size
            end = max(offset + room, before)
            self._check_room(end, role)
            try:
                os.ftruncate(self.fd, end)
                if self._in_use:
                    self._reserve(offset, room)
                mapping = mmap.mmap(self.fd, nbytes, offset=offset)
            except BaseException as error:
                os.ftruncate(self.fd, before)
                if isinstance(error, OSError) and error.filename is None:  # a limit on files, or on mappings
                    raise OSError(
                        error.errno,
                        f"state_path: the file cannot grow to {end} bytes for {role} "
                        f"({os.strerror(error.errno or 0)}); raise that limit, or take a smaller state_dtype",
                        self.path,
                    ) from error
                raise
            self.size = end
            array = np.frombuffer(mapping, dtype)
            if self._in_use and offset < before:
                array[...] = 0
            start = address(array)
            self._regions[start] = Region(start, start + nbytes, offset, dtype), weakref.ref(mapping)
            self._sorted = sorted(self._regions)
            weakref.finalize(mapping, _drop, weakref.ref(self), start).atexit = False
            return array

    def _gap(self, room: int) -> int:
        """Return where so many bytes are that belong to no region, at the latest behind all of them."""
        place = ALIGNMENT
        for region, _ in sorted(self._regions.values(), key=lambda each: each[0].offset):
            if region.offset - place >= room:
                break
            place = region.offset + -(-(region.end - region.start) // ALIGNMENT) * ALIGNMENT
        return place

    def _check_room(self, size: int, role: str) -> None:
        """Refuse to grow beyond what the disk has; other programs may take that, so it is reserved before use."""
        disk, own = os.fstatvfs(self.fd), os.fstat(self.fd).st_blocks * 512
        missing = size - own - disk.f_bavail * disk.f_frsize
        if missing > 0:
            raise OSError(
                28,
                f"state_path: {role} needs {size} bytes in the file, {missing} more than its disk has; make "
                f"room, take a path on another disk, or a smaller state_dtype ('bfloat16', 'int8')",
                self.path,
            )

    def _reserve(self, offset: int, nbytes: int) -> None:
        try:
            os.posix_fallocate(self.fd, offset, nbytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"state_path: the disk cannot hold {nbytes} bytes of state ({os.strerror(error.errno or 0)}); "
                f"nothing has been changed; make room and go on, or take a path on another disk",
                self.path,
            ) from error

    def make_ready(self) -> None:
        """Reserve the file's blocks on the disk, so that no write to it can fail for want of them.

        Raises
        ------
        OSError
            If the disk has no room; or an earlier step has broken off because the disk failed.
        RuntimeError
            In a forked child, whose steps would write its parent's state.
        """
        with self._lock:
            if os.getpid() != self._pid:
                raise RuntimeError(
                    f"this optimizer's state lies in {self.path!r}, which belongs to the process that made it, "
                    f"and this is a forked child of that; make an optimizer with another state_path here, and "
                    f"load a checkpoint of fastadam.save into it"
                )
            if self.broken is not None:
                raise OSError(
                    f"a step broke off when the disk failed ({self.broken}), so that parameters and state in "
                    f"{self.path!r} are of two steps; make a new optimizer, and fastadam.load a checkpoint into it"
                )
            if os.fstat(self.fd).st_size < self.size:  # to touch what is missing would end the process
                self.broken = "somebody has cut the file"
                self.make_ready()
            if not self._in_use:
                self._reserve(0, self.size)
                self._in_use = True

    def release(self) -> None:
        """Give back the resident memory of the mappings; their numbers are kept by the system and on the disk."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for _, mapping in list(self._regions.values()):
                found = mapping()
                if found is not None:
                    found.madvise(mmap.MADV_DONTNEED)

    def read_into(self, target: Array, offset: int) -> None:
        """Read bytes from the file.

        Parameters
        ----------
        target : ndarray of uint8
            Written to.
        offset : int
            Where they begin in the file.

        Raises
        ------
        OSError
            If the disk fails, or the file ends before that: what would end a process that reads a mapping.
        """
        done = 0
        while done < len(target):
            n = os.preadv(self.fd, [target[done:].data], offset + done)
            if not n:
                raise OSError(5, "state_path: somebody has cut the file", self.path)
            done += n

    def write_from(self, source: Array, offset: int) -> None:
        """Write bytes, an ndarray of uint8, to the file; raises OSError if the disk fails."""
        done = 0
        while done < len(source):
            done += os.pwrite(self.fd, source[done:].data, offset + done)

    def region_at(self, where: int) -> Region:
        """Return the region that has an address."""
        region = self._regions[self._sorted[bisect.bisect_right(self._sorted, where) - 1]][0]
        assert region.start <= where <= region.end
        return region

    def _forget(self, start: int) -> None:
        """Drop a region whose array is gone; at the end of the file, its room is given back."""
        with self._lock:
            self._regions.pop(start, None)
            self._sorted = sorted(self._regions)
            if os.getpid() == self._pid and self.close.alive:
                ends = [region.offset + (region.end - region.start) for region, _ in self._regions.values()]
                self.size = -(-max(ends, default=ALIGNMENT) // ALIGNMENT) * ALIGNMENT
                with contextlib.suppress(OSError):
                    os.ftruncate(self.fd, self.size)


def _drop(file: weakref.ref[StateFile], start: int) -> None:
    found = file()
    if found is not None:
        found._forget(start)


def _open_locked(path: str) -> int:
    """Open the file, made anew or left behind by a killed process, and lock it."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"state_path cannot be made ({os.strerror(error.errno or 0)}); give a file in a folder "
                f"that there is, and that can be written",
                path,
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(22, "state_path is no regular file; give the path of a file on a disk", path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    11,
                    "state_path is in use by another optimizer, of this process or another (or one that it "
                    "forked); give each a path of its own, or wait until that one has ended",
                    path,
                ) from error
            found = os.fstat(fd)
            if found.st_size and os.pread(fd, len(MAGIC), 0) != MAGIC:
                raise FileExistsError(
                    17,
                    "state_path is a file that is there already, and was not made by state_path; nothing was "
                    "written to it: move it away, or give another path",
                    path,
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(found, os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # who had it locked has just removed it


def _remove(path: str, fd: int, identity: tuple[int, int], pid: int) -> None:
    """Remove the file, if it is still the one at the path; a forked child leaves its parent's."""
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == identity:
                os.unlink(path)
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):
        os.close(fd)


@contextlib.contextmanager
def in_memory(file: StateFile | None) -> Iterator[None]:
    """Have all of a file, where there is one, to be read and written by its mappings within the block."""
    if file is None:
        yield
        return
    file.make_ready()
    try:
        yield
    finally:
        file.release()
