"""Checkpoints: parameters and state in one safetensors file, written so that a kill leaves a whole one."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from fastadam import hyperparameters
from fastadam.adam import Adam
from fastadam.arrays import DTYPES, Array, as_reals, check_parameter
from fastadam.groups import Group
from fastadam.params import Member
from fastadam.plan import MOMENTS

fcntl: Any = None  # a system without it keeps what killed saves left behind
with contextlib.suppress(ImportError):
    fcntl = importlib.import_module("fcntl")

FORMAT, VERSION = "fastadam", "1"
NOTE = "lr is null where it was a function, which a file cannot hold"
# The format's names of dtypes, their sizes in bytes, and the names that our metadata give to dtypes.
CODES: dict[np.dtype[Any], str] = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}
SIZES = {code: dtype.itemsize for dtype, code in CODES.items()}
NAMES = {dtype.name: dtype for dtype in DTYPES}
# What can be in front of the first "/" in a tensor's name; all behind it is the parameter's name or position.
PARAM = "param"
LONGEST_HEADER = 100_000_000  # bytes; the safetensors library refuses to read more
CHUNK = 4 << 20  # bytes copied at a time
WINDOW = 24 << 20  # bytes read before the pages that were mapped for them are given back
MOST_LISTED = 10

_Progress = Callable[[int], object]


def save(
    path: str | os.PathLike[str],
    opt: Adam,
    params: bool = True,
    extra: Mapping[str, Any] | None = None,
    *,
    progress: bool = False,
) -> None:
    """Write an optimizer's state, and its parameters, to one safetensors file.

    The file is written beside `path` under another name, flushed to the disk and renamed, so that `path` is
    the old file or the new one, whole, whenever the process or the machine stops. Arrays are written from
    where they are, without copies. Steps that other threads take wait until it is done.

    Parameters
    ----------
    path : str or path-like
        Where to write; ``".safetensors"`` is the usual ending. A file that is there is replaced.
    opt : Adam
        The optimizer, in any layout.
    params : bool, default True
        Whether to save the parameters too, not the state alone.
    extra : mapping, optional
        What else the run needs to go on, such as the number of the epoch: anything that JSON can hold.
        `load` returns it.
    progress : bool, default False
        Show a progress bar.

    Raises
    ------
    TypeError, ValueError
        If an argument, a name or an edited option cannot be saved; nothing has been written then.
    OSError
        If the file cannot be written; the one that was there is as before then.
    ImportError
        If the package safetensors is missing, or tqdm for a progress bar.

    Notes
    -----
    The tensors are ``param/NAME``, ``exp_avg/NAME``, ``exp_avg_sq/NAME`` and, with amsgrad,
    ``max_exp_avg_sq/NAME``, in the parameters' shapes; NAME is the parameter's name, or its position where
    there are no names. Complex ones, for which the format has no dtype, are stored as reals with a last
    dimension of 2. The metadata hold ``format``, ``format_version`` and, as JSON, ``param_groups``: each
    group's options and, of each parameter, its name, shape, dtype and step counter; and `extra`. A parameter
    that was never stepped has no moments. Where `lr` is a function, null is saved in its place.

    Examples
    --------
    >>> import numpy as np, fastadam, tempfile, os
    >>> w = np.ones(3)
    >>> optimizer = fastadam.Adam({"w": w}, lr=0.5)
    >>> optimizer.step({"w": np.ones(3)})
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "run.safetensors")
    >>> fastadam.save(path, optimizer, extra={"epoch": 7})
    >>> optimizer.step({"w": np.ones(3)})
    >>> fastadam.load(path, optimizer)
    {'epoch': 7}
    >>> w.round(6), optimizer.state["w"]["step"]
    (array([0.5, 0.5, 0.5]), np.int64(1))
    >>> folder.cleanup()
    """
    _check_optimizer(opt)
    target = os.path.realpath(_check_path(path))
    if not isinstance(params, bool | np.bool_):
        raise TypeError(f"params must be True or False, got {params!r}")
    metadata = {"format": FORMAT, "format_version": VERSION}
    if extra is not None:
        metadata["extra"] = _encode_extra(extra)
    safe_open = _import_safetensors()
    if os.path.isdir(target):
        raise IsADirectoryError(f"path {os.fspath(path)!r} is a directory; name a file in it")
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"path {os.fspath(path)!r} is no regular file, which a checkpoint would replace")
    with opt._lock:
        tensors, groups = _collect(opt, bool(params))
        metadata["param_groups"] = json.dumps(groups, allow_nan=False)
        if any(group["lr"] is None for group in groups):
            metadata["note"] = NOTE
        header = _header(tensors, metadata)
        with _bar(progress, sum(reals.nbytes for reals, _ in tensors.values()), "saving") as advance:
            _write(target, header, tensors, metadata, safe_open, advance)


def load(path: str | os.PathLike[str], opt: Adam, *, progress: bool = False) -> dict[str, Any]:
    """Restore an optimizer, and its parameters, from a file written by `save`.

    Parameters, moments, step counters and options are set in place, in the optimizer's own arrays. The layout
    can be another one than that of the optimizer that was saved. Where both have names, parameters are
    matched by name, group by group; else in their order.

    Parameters
    ----------
    path : str or path-like
        The file.
    opt : Adam
        An optimizer over parameters of the same shapes and dtypes, in as many groups. Where the file has null
        for `lr`, because it was a function, the optimizer's must be one and stays; a number in the file
        takes the place of a function. Parameters that the file does not hold (``params=False``) stay as they
        are.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    dict
        What was given to `save` as `extra`; empty if nothing was.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the file is no whole checkpoint, or does not fit; the message says what is missing, unexpected or of
        another shape or dtype. All checks come before the first write: the optimizer is as before then.
    OSError
        If the file cannot be opened; or if the disk fails while numbers are read, when the message says that
        the optimizer holds a part of them.
    ImportError
        If the package safetensors is missing, or tqdm for a progress bar.

    Notes
    -----
    The file is memory-mapped and copied from there in pieces, so that loading takes little memory, however
    large the file. It must not be changed in place meanwhile: a mapped file that gets shorter ends the
    process (SIGBUS). `save` never does that; it replaces the file, and a load under way goes on with the
    old one. An interrupt (Ctrl-C) in mid-load leaves the optimizer with a part of the file: load again.
    """
    _check_optimizer(opt)
    name = os.path.realpath(_check_path(path))
    safe_open = _import_safetensors()
    if os.path.exists(name) and not os.path.isdir(name) and not os.path.isfile(name):
        raise ValueError(f"path {os.fspath(path)!r} is no regular file")  # opening a pipe would wait forever
    with open(name, "rb") as file, opt._lock:
        opt._refuse_while_stepping("load")
        try:
            source = _Source(file.fileno(), name, safe_open)
            checkpoint = _Checkpoint(source, opt)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from error
        with _bar(progress, checkpoint.nbytes, "loading") as advance:
            started = False

            def read(target: Array, key: int, moment: str) -> None:
                nonlocal started
                started = True
                source.read(f"{moment}/{checkpoint.keys[key]}", target, advance)

            try:
                opt._load("load", checkpoint.state, read)
                for member, key in checkpoint.params:
                    read(member.array, key, PARAM)
            except Exception as error:
                if not started:  # no memory for a third moment
                    raise
                raise OSError(
                    f"reading {os.fspath(path)!r} failed on the way ({error}); the optimizer holds a part of "
                    f"it, so load a whole checkpoint before the next step"
                ) from error
        extra: dict[str, Any] = checkpoint.extra
    return extra


def _check_optimizer(opt: Any) -> None:
    if not isinstance(opt, Adam):
        remedy = ""
        if hasattr(opt, "state_dict"):
            remedy = "; for a torch optimizer, use torch.save and torch.load with its state_dict()"
        raise TypeError(f"opt must be a fastadam.Adam, got {type(opt).__name__}{remedy}")


def _check_path(path: Any) -> str:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path must be a string or a path, got {path!r} of type {type(path).__name__}")
    return str(os.fspath(path))


def _import_safetensors() -> Any:
    """Return ``safetensors.safe_open``; imported here, so that ``import fastadam`` stays light."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(
            "fastadam.save and fastadam.load need the package safetensors: pip install safetensors"
        ) from error
    return safe_open


@contextlib.contextmanager
def _bar(show: bool, total: int, what: str) -> Iterator[_Progress]:
    """Yield a function to call with the number of bytes just done."""
    if not show:
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs the package tqdm: pip install tqdm") from error
    with tqdm(total=total, unit="B", unit_scale=True, desc=what) as bar:
        yield bar.update


# Writing ------------------------------------------------------------------------------------------------------


def _encode_extra(extra: Any) -> str:
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra must be a mapping, got {extra!r} of type {type(extra).__name__}")
    plain = dict(extra)
    try:
        text = json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"extra cannot be saved as JSON: {error}; use finite numbers, strings, lists, dicts") from error
    # Without this, numbers as keys and tuples would silently come back as strings and lists.
    if json.loads(text) != plain:
        raise ValueError(
            f"extra would be another one after loading, {text:.200}; use strings as keys, and lists for tuples"
        )
    return text


def _collect(opt: Adam, params: bool) -> tuple[dict[str, tuple[Array, list[int]]], list[dict[str, Any]]]:
    """Return the tensors, as live 1-D reals with the shapes to save, and what the metadata say of groups."""
    saved = opt._saved("save", copy=False)
    tensors: dict[str, tuple[Array, list[int]]] = {}
    groups = []
    for group, options in zip(opt._groups, saved["param_groups"], strict=True):
        members = []
        for position, member in zip(options["params"], group.members, strict=True):
            _check_unchanged(member)
            key = str(position) if member.name is None else member.name
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the name of {member.label} cannot be saved as UTF-8: {error}") from error
            entry = saved["state"].get(position, {})
            found = {PARAM: member.array} if params else {}
            found.update((name, entry[name]) for name in MOMENTS if name in entry)
            shape = _stored_shape(member)
            tensors.update((f"{kind}/{key}", (as_reals(array), shape)) for kind, array in found.items())
            members.append(
                {
                    "name": member.name,
                    "shape": list(member.shape),
                    "dtype": member.dtype.name,
                    "step": int(entry.get("step", 0)),
                }
            )
        kept = {name: options[name] for name in hyperparameters.KEYS}
        kept["lr"] = None if callable(kept["lr"]) else kept["lr"]
        groups.append({**kept, "params": members})
    # In the library's own order: wide numbers first, so that all of them are aligned in the file, then by name.
    return dict(sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0]))), groups


def _check_unchanged(member: Member) -> None:
    """Refuse an array whose shape or dtype was exchanged in place after the optimizer took it."""
    array = member.array
    if (array.shape, array.dtype) != (member.shape, member.dtype) or not array.flags.c_contiguous:
        raise ValueError(
            f"{member.label} was {member.dtype} of shape {member.shape} and is now {array.dtype} of shape "
            f"{array.shape}; give it back its shape and dtype, or make a new optimizer for it"
        )


def _stored_shape(member: Member) -> list[int]:
    return [*member.shape, 2] if member.dtype.kind == "c" else list(member.shape)


def _header(tensors: Mapping[str, tuple[Array, list[int]]], metadata: Mapping[str, str]) -> bytes:
    """Return what stands in front of the numbers in a safetensors file: a length, and JSON of that length.

    The library's own writers want to be handed all tensors at once, and copy them but in its newest versions;
    those name the temporary file themselves (which a kill then leaves behind), cannot say how far they are,
    and do not fsync the directory. The header is documented and short, so it is made here; `_write` has the
    library read each file back before it takes its place.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (reals, shape) in tensors.items():
        start, end = end, end + reals.nbytes
        described[name] = {"dtype": CODES[reals.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(
            f"the header would have {len(text)} bytes, safetensors allows {LONGEST_HEADER}; save fewer or longer "
            f"parameters, or a smaller extra"
        )
    return len(text).to_bytes(8, "little") + text


def _write(
    target: str,
    header: bytes,
    tensors: Mapping[str, tuple[Array, list[int]]],
    metadata: Mapping[str, str],
    safe_open: Any,
    advance: _Progress,
) -> None:
    """Write the file under another name and let it take the place of `target`."""
    _remove_left_behind(target)
    fd, temporary = _open_temporary(target)
    try:
        with open(fd, "wb") as file:
            file.write(header)
            for reals, _ in tensors.values():
                step = CHUNK // reals.itemsize
                for start in range(0, reals.size, step):
                    piece = reals[start : start + step]
                    # The format is little-endian; on nearly all machines this copies nothing.
                    file.write(piece.astype(piece.dtype.newbyteorder("<"), copy=False).data)
                    advance(piece.nbytes)
            file.flush()
            os.fsync(file.fileno())
            try:
                with safe_open(_again(file.fileno(), temporary), framework="np") as written:
                    same = written.metadata() == metadata and set(written.keys()) == set(tensors)
            except Exception as error:  # the library's own errors are of no common class but this one
                raise OSError(f"{temporary!r} cannot be read back: {error}") from error
            if not same:
                raise OSError(f"{temporary!r} does not read back as it was written")
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
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


def _open_temporary(target: str) -> tuple[int, str]:
    """Create a file beside `target` and lock it, which tells other processes that it is in use."""
    folder, name = os.path.split(target)
    while True:
        temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
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


def _remove_left_behind(target: str) -> None:
    """Remove the temporary files of saves to `target` that were killed: those that nobody holds locked.

    A name for each save, instead of the same one for all, keeps processes that save to one path apart.
    """
    if fcntl is None:
        return
    folder, name = os.path.split(target)
    ours = re.compile(re.escape(f".{name}.") + r"[0-9a-f]{16}\.tmp")
    for entry in os.listdir(folder):
        if not ours.fullmatch(entry):
            continue
        with contextlib.suppress(OSError), open(os.path.join(folder, entry), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(file.name)


# Reading ------------------------------------------------------------------------------------------------------


def _again(fd: int, name: str) -> str:
    """Return a name by which the library can open an open file once more.

    Where there is /proc, it is not the file's own, under which another file may be by now, and which may hold
    bytes that are no UTF-8.
    """
    again = f"/proc/self/fd/{fd}"
    return again if os.path.exists(again) else name


class _Source:
    """An open safetensors file.

    Parameters
    ----------
    fd : int
        The open file.
    name : str
        Its name, for systems on which an open file cannot be opened once more.
    safe_open : callable
        That of the library.

    Attributes
    ----------
    metadata : dict of str
    tensors : dict
        ``(dtype, shape)`` of each tensor, in the format's names.

    Raises
    ------
    ValueError
        If it is no whole safetensors file.
    """

    def __init__(self, fd: int, name: str, safe_open: Any) -> None:
        self._name = _again(fd, name)
        self._safe_open = safe_open
        self._left = 0
        try:
            self._open()
            self.metadata: dict[str, str] = self._file.metadata() or {}
            self.tensors: dict[str, tuple[str, list[int]]] = {}
            for key in self._file.keys():  # noqa: SIM118 - it is no mapping
                part = self._file.get_slice(key)
                self.tensors[key] = part.get_dtype(), list(part.get_shape())
        except Exception as error:  # the library's own errors are of no common class but this one
            raise ValueError(f"it is no whole safetensors file: {error}") from error

    def _open(self) -> None:
        # Mapped pages that have been read count as memory of this process until they are unmapped.
        self._file = self._safe_open(self._name, framework="np")
        self._left = WINDOW

    def read(self, name: str, target: Array, advance: _Progress) -> None:
        """Copy a tensor, which has been found to fit, into a contiguous array."""
        reals = as_reals(target)
        shape = self.tensors[name][1]
        if not shape:  # a slice needs a dimension
            reals[...] = self._file.get_tensor(name)
            advance(reals.nbytes)
            return
        start = 0
        for block in _blocks(shape, CHUNK // reals.itemsize):
            if self._left <= 0:
                self._open()
            # Made anew for each block, because it holds the mapping.
            piece = self._file.get_slice(name)[block].reshape(-1)
            reals[start : start + piece.size] = piece
            start += piece.size
            self._left -= piece.nbytes
            advance(piece.nbytes)
        if start != reals.size:
            raise OSError(f"tensor {name!r} ended after {start} of {reals.size} numbers")


def _blocks(shape: list[int], most: int) -> Iterator[tuple[slice, ...]]:
    """Yield the blocks of an array, in memory order, of at most `most` elements each."""
    if 0 in shape:
        return
    row = math.prod(shape[1:])
    if row <= most:
        step = most // row
        yield from ((slice(i, min(i + step, shape[0])),) for i in range(0, shape[0], step))
        return
    for i in range(shape[0]):
        yield from ((slice(i, i + 1), *rest) for rest in _blocks(shape[1:], most))


class _Checkpoint:
    """A file that has been checked against an optimizer.

    Parameters
    ----------
    source : _Source
    opt : Adam

    Attributes
    ----------
    extra : dict
        What the user saved along.
    keys : list of str
        The name or position under which the file has each of its parameters.
    state : dict
        A state dict for the optimizer, in which arrays without memory stand in for the moments.
    params : list of (Member, int)
        The parameters to restore, and their places in `keys`.
    nbytes : int
        How much is to be read.

    Raises
    ------
    ValueError
        If the file is damaged or does not fit.
    """

    def __init__(self, source: _Source, opt: Adam) -> None:
        metadata = source.metadata
        if metadata.get("format") != FORMAT:
            raise ValueError("it was not written by fastadam.save: its metadata do not say format 'fastadam'")
        if metadata.get("format_version") != VERSION:
            raise ValueError(
                f"it has format version {metadata.get('format_version')!r}, this version of fastadam reads "
                f"{VERSION!r}; load it with the version that wrote it"
            )
        self.extra = _decode(metadata.get("extra", "{}"), "extra")
        if not isinstance(self.extra, dict):
            raise ValueError("'extra' in its metadata is no mapping")
        saved = _decode(metadata.get("param_groups", "null"), "param_groups")
        _check_groups(saved)
        entries = [entry for group in saved for entry in group["params"]]
        self.keys = [str(i) if entry["name"] is None else entry["name"] for i, entry in enumerate(entries)]
        has_params = any(name.startswith(f"{PARAM}/") for name in source.tensors)
        matched = _match(saved, opt._groups, self.keys)
        _check_tensors(source, saved, self.keys, has_params)
        self.nbytes = sum(SIZES[dtype] * math.prod(shape) for dtype, shape in source.tensors.values())
        self.params = [pair for pair in matched if has_params]
        self.state: dict[str, Any] = {"state": {}, "param_groups": []}
        members = {key: member for member, key in matched}
        for key, entry in enumerate(entries):
            if entry["step"]:
                stand_in = np.broadcast_to(np.zeros((), NAMES[entry["dtype"]]), members[key].shape)
                found = {name: stand_in for name in MOMENTS if f"{name}/{self.keys[key]}" in source.tensors}
                self.state["state"][key] = {"step": entry["step"], **found}
        rest = iter(matched)
        for group, saved_group in zip(opt._groups, saved, strict=True):
            places = [next(rest)[1] for _ in group.members]
            options = {name: saved_group[name] for name in hyperparameters.KEYS}
            if options["lr"] is None:
                options["lr"] = group.options.get("lr")
                if not callable(options["lr"]):
                    raise ValueError(
                        f"{group.where}lr was a function, which the file does not hold; set lr of the optimizer "
                        f"to that function, then load"
                    )
            hyperparameters.check(options, group.where or "param_groups[0]: ")
            # The matching is done: by position here, whatever names there are.
            self.state["param_groups"].append({**options, "params": places})
        for member, _ in matched:
            _check_unchanged(member)
            if has_params:
                check_parameter(member.owner, member.label)


def _decode(text: str, what: str) -> Any:
    """Decode JSON that holds finite numbers only."""

    def refuse(number: str) -> NoReturn:
        raise ValueError(f"{number} is not finite")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what!r} in its metadata is no JSON that fastadam.save writes: {error}") from error


def _check_groups(saved: Any) -> None:
    """Check the form of what the metadata say of groups; the values of options are checked elsewhere."""
    if not isinstance(saved, list) or not saved:
        raise ValueError("'param_groups' in its metadata is missing or no list of groups")
    names = []
    for i, group in enumerate(saved):
        if not isinstance(group, dict) or group.keys() != {*hyperparameters.KEYS, "params"}:
            raise ValueError(f"param_groups[{i}] in its metadata has not the keys that fastadam.save writes")
        if not isinstance(group["params"], list) or not group["params"]:
            raise ValueError(f"param_groups[{i}] in its metadata lists no parameters")
        for entry in group["params"]:
            if not isinstance(entry, dict) or entry.keys() != {"name", "shape", "dtype", "step"}:
                raise ValueError(f"param_groups[{i}] in its metadata has a damaged parameter, {entry!r:.100}")
            if not isinstance(entry["name"], str | None):
                raise ValueError(f"param_groups[{i}] in its metadata has the name {entry['name']!r:.100}")
            if type(entry["step"]) is not int or not 0 <= entry["step"] < 2**62:
                raise ValueError(f"param_groups[{i}] in its metadata has the step {entry['step']!r:.100}")
            if not isinstance(entry["dtype"], str) or entry["dtype"] not in NAMES:
                raise ValueError(f"param_groups[{i}] in its metadata has the dtype {entry['dtype']!r:.100}")
            shape = entry["shape"]
            if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"param_groups[{i}] in its metadata has the shape {shape!r:.100}")
            names.append(entry["name"])
    if any(name is not None for name in names) and (None in names or len(set(names)) < len(names)):
        raise ValueError("in its metadata, names are missing or appear twice")


def _match(saved: list[dict[str, Any]], groups: list[Group], keys: list[str]) -> list[tuple[Member, int]]:
    """Return each parameter with the place in the file of what belongs to it: by name where both have names.

    Raises
    ------
    ValueError
        If some are missing, unexpected, or of another shape or dtype.
    """
    if len(saved) != len(groups):
        raise ValueError(f"it has {len(saved)} parameter groups, the optimizer has {len(groups)}")
    matched = []
    missing, unexpected, other = [], [], []
    start = 0
    for saved_group, group in zip(saved, groups, strict=True):
        entries = {keys[start + i]: (start + i, entry) for i, entry in enumerate(saved_group["params"])}
        start += len(entries)
        if saved_group["params"][0]["name"] is None or group.members[0].name is None:
            named: dict[str, Member | None] = dict(zip(entries, group.members, strict=False))
            missing += [member.label for member in group.members[len(entries) :]]
        else:
            named = {str(member.name): member for member in group.members}
            missing += [repr(name) for name in named if name not in entries]
        unexpected += [repr(key) for key in entries if key not in named]
        for key, member in named.items():
            if key not in entries or member is None:
                continue
            place, entry = entries[key]
            theirs, ours = (tuple(entry["shape"]), entry["dtype"]), (member.shape, member.dtype.name)
            if theirs != ours:
                other.append(f"{member.label} ({theirs[1]} {theirs[0]} in the file, {ours[1]} {ours[0]} here)")
            matched.append((member, place))
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape or dtype", other)]
    _raise_for(problems, "it does not fit the optimizer's parameters")
    return matched


def _check_tensors(source: _Source, saved: list[dict[str, Any]], keys: list[str], has_params: bool) -> None:
    """Check that the file's tensors are those that its metadata promise."""
    needed: dict[str, list[int]] = {}
    allowed: dict[str, list[int]] = {}
    dtypes: dict[str, str] = {}
    place = 0
    for group in saved:
        for entry in group["params"]:
            key = keys[place]
            place += 1
            dtype = NAMES[entry["dtype"]]
            shape = [*entry["shape"], 2] if dtype.kind == "c" else entry["shape"]
            kinds = [PARAM] if has_params else []
            kinds += MOMENTS[:2] if entry["step"] else ()
            kinds += MOMENTS[2:] if entry["step"] and group["amsgrad"] is True else ()
            needed.update((f"{kind}/{key}", shape) for kind in kinds)
            if entry["step"]:  # a third moment stays where amsgrad has been switched off
                allowed[f"{MOMENTS[2]}/{key}"] = shape
            code = CODES[DTYPES[dtype][0]]
            dtypes.update((f"{kind}/{key}", code) for kind in (PARAM, *MOMENTS))
    allowed.update(needed)
    missing = [repr(name) for name in needed if name not in source.tensors]
    unexpected = [repr(name) for name in source.tensors if name not in allowed]
    other = [
        f"{name!r} ({dtype} {shape}, but {dtypes[name]} {allowed[name]} in the metadata)"
        for name, (dtype, shape) in source.tensors.items()
        if name in allowed and (dtype, shape) != (dtypes[name], allowed[name])
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape or dtype", other)]
    _raise_for(problems, "its tensors are not those that its metadata list")


def _raise_for(problems: list[tuple[str, list[str]]], what: str) -> None:
    """Raise a ValueError that lists the problems, if there are any."""
    parts = []
    for problem, found in problems:
        if found:
            more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
            parts.append(f"{problem}: {', '.join(found[:MOST_LISTED])}{more}")
    if parts:
        raise ValueError(f"{what}: {'; '.join(parts)}")
