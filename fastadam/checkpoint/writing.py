"""Writes a checkpoint's file: beside its target, flushed to the disk, read back and renamed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO

from fastadam.checkpoint.contents import Collected
from fastadam.checkpoint.format import CHUNK, CODES, Advance, again
from fastadam.groups.contents import Alone
from fastadam.memory.devices import on_host

fcntl: Any = None  # a system without it keeps what killed saves left behind
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")

LONGEST_NAME = 255  # bytes, of a file in nearly all file systems
RANDOM = 16  # hexadecimal digits in the name of a temporary file
LONGEST_HEADER = 100_000_000  # bytes; the safetensors library refuses to read more


def make_header(collected: Collected, metadata: Mapping[str, str]) -> tuple[io.BytesIO, int]:
    """Return what stands in front of the numbers in a safetensors file, and how many bytes of numbers follow.

    That is a length, and JSON of that length, which is made piece by piece.

    The library's own writers want to be handed all tensors at once, and copy them but in its newest versions;
    those name the temporary file themselves (which a kill then leaves behind), cannot say how far they are,
    and do not fsync the directory. The header is documented and short, so it is made here; `write` has the
    library read each file back before it takes its place.
    """
    encode = json.JSONEncoder(separators=(",", ":")).encode
    header = io.BytesIO()
    header.write(bytes(8) + b'{"__metadata__":' + encode(dict(metadata)).encode())
    end = 0
    for tensor in collected.tensors():
        start, end = end, end + tensor.nbytes
        kind = CODES[tensor.reals.dtype]
        described = {"dtype": kind, "shape": tensor.shape, "data_offsets": [start, end]}
        header.write(f",{encode(tensor.name)}:{encode(described)}".encode())
    header.write(b"}")
    header.write(b" " * (-header.tell() % 8))
    length = header.tell() - 8
    if length > LONGEST_HEADER:
        raise ValueError(
            f"the header would have {length} bytes, safetensors allows {LONGEST_HEADER}; save fewer or longer "
            f"parameters, or a smaller extra"
        )
    header.seek(0)
    header.write(length.to_bytes(8, "little"))
    return header, end


def write(
    target: str,
    header: io.BytesIO,
    collected: Collected,
    metadata: Mapping[str, str],
    safe_open: Any,
    advance: Advance,
    peers: Alone,
) -> None:
    """Write the file under another name and let it take the place of `target`.

    Where several processes have parts of it, each writes its own. The first of them does all the rest.
    """
    if peers.rank:
        _write_part(peers, header, collected, advance)
        peers.agree()  # all is written
        peers.agree()  # it is in its place
        return
    remove_left_behind(target)
    fd, temporary = open_temporary(target)
    try:
        with open(fd, "wb") as file:
            file.write(header.getvalue())
            peers.tell(temporary)
            peers.agree()  # all have it open, whatever becomes of its name
            _write_tensors(file, header, collected, advance)
            header.close()  # its memory is needed by what reads the file back
            file.flush()
            os.fsync(file.fileno())
            peers.agree()
            try:
                with safe_open(again(file.fileno(), temporary), framework="np") as written:
                    same = written.metadata() == metadata
                    names = set(written.keys())
                same = same and names == {tensor.name for tensor in collected.tensors()}
            except Exception as error:  # the library's own errors are of no common class but this one
                raise OSError(f"{temporary!r} cannot be read back: {error}") from error
            if not same:
                raise OSError(f"{temporary!r} does not read back as it was written")
            mode = mode_of(target)
            if mode is not None and mode != mode_of(temporary):
                os.chmod(temporary, mode)
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the rename itself has to reach the disk too
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    peers.agree()


def _write_part(peers: Alone, header: io.BytesIO, collected: Collected, advance: Advance) -> None:
    """Write what this process has into the file that the first one has begun."""
    temporary = peers.tell("")
    if not os.path.exists(temporary):
        raise FileNotFoundError(
            f"{temporary!r}, which another process has begun, is not to be found here; save to a folder on a file "
            f"system that all of them share"
        )
    with open(temporary, "r+b") as file:
        peers.agree()
        _write_tensors(file, header, collected, advance)
        file.flush()
        os.fsync(file.fileno())


def _write_tensors(file: BinaryIO, header: io.BytesIO, collected: Collected, advance: Advance) -> None:
    """Write what this process has of the tensors, each number where it belongs."""
    place = header.getbuffer().nbytes
    for tensor in collected.tensors():
        reals = tensor.reals
        if reals.size and file.tell() != place + tensor.first:
            file.seek(place + tensor.first)
        place += tensor.nbytes
        step = CHUNK // reals.itemsize
        for start in range(0, reals.size, step):
            piece = on_host(reals[start : start + step])
            # The format is little-endian; on nearly all machines this copies nothing.
            file.write(piece.astype(piece.dtype.newbyteorder("<"), copy=False).data)
            advance(piece.nbytes)


def mode_of(target: str) -> int | None:
    """Return the permissions of the file that is to be replaced, or None if there is none."""
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        return None


def beginning_of(target: str) -> str:
    """Return what the names of the temporary files for `target` begin with, short enough for any file's name."""
    name = os.path.basename(target)
    ending = f"..{'0' * RANDOM}.tmp"
    if len(os.fsencode(name)) + len(ending) <= LONGEST_NAME:
        return f".{name}."
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}."


def open_temporary(target: str) -> tuple[int, str]:
    """Create a file beside `target`, with its permissions, and lock it: other processes see that it is in use."""
    folder, mode = os.path.dirname(target), mode_of(target)
    while True:
        temporary = os.path.join(folder, f"{beginning_of(target)}{os.urandom(RANDOM // 2).hex()}.tmp")
        # Nobody else may open it before it has its permissions: whoever has could read all that is written later.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
        if mode is not None:
            os.chmod(temporary, mode | stat.S_IRUSR)  # it is read back
        if fcntl is None:
            return fd, temporary
        try:
            with contextlib.suppress(FileNotFoundError):  # another process has just tidied it away
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(temporary)):
                    return fd, temporary
        except BlockingIOError:  # another process is about to tidy it away
            pass
        except OSError:  # a file system without locks, where nobody tidies up
            return fd, temporary
        os.close(fd)


def remove_left_behind(target: str) -> None:
    """Remove the temporary files of saves to `target` that were killed: those that nobody holds locked.

    A name for each save, instead of the same one for all, keeps processes that save to one path apart.
    """
    if fcntl is None:
        return
    folder = os.path.dirname(target)
    ours = re.compile(re.escape(beginning_of(target)) + rf"[0-9a-f]{{{RANDOM}}}\.tmp")
    for entry in os.listdir(folder):
        if not ours.fullmatch(entry):
            continue
        path = os.path.join(folder, entry)
        # Some file systems lock only what can be written; it cannot be if it was to replace such a file.
        with contextlib.suppress(OSError), open(path, "r+b" if os.access(path, os.W_OK) else "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
