"""Checkpoints: parameters and state in one safetensors file, written so that a kill leaves a whole one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.adam import Adam
from fastadam.checkpoint.contents import NOTE, Collected, definition_of, encode_extra
from fastadam.checkpoint.fitting import Checkpoint
from fastadam.checkpoint.format import FORMAT, VERSION, import_safetensors
from fastadam.checkpoint.progress import bar, bar_of_its_own
from fastadam.checkpoint.reading import Source
from fastadam.checkpoint.writing import make_header, write


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
        Where to write; ``".safetensors"`` is the usual ending. A file that is there is replaced, by one with its
        permissions.
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
    ``max_exp_avg_sq/NAME`` and, with averages, ``ema/NAME``, in the parameters' shapes, and, where rows have taken
    less steps than their parameter, ``row_step/NAME``, one whole number for each row; NAME is the parameter's
    name, or its position where there are no names. Complex ones, for which the format has no dtype, are stored
    as reals with a last dimension of 2. The metadata hold ``format``, ``format_version`` and, as JSON,
    ``param_groups``: each group's options and, of each parameter, its name, shape, dtype and step counter; and
    `extra`. A parameter that was never stepped has no moments. Where `lr` is a function, null is saved in its
    place, and where it is one of `fastadam.schedules`, its definition besides, in ``schedules``, a JSON list
    with an entry for each group. A version of this library that knows no schedules takes such a file for one
    with a function.

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
    >>> w.round(6), int(optimizer.state["w"]["step"])
    (array([0.5, 0.5, 0.5]), 1)
    >>> folder.cleanup()
    """
    _check_optimizer(opt)
    with opt._exclusive("save") as contents:
        target = os.path.realpath(_check_path(path))
        if not isinstance(params, bool | np.bool_):
            raise TypeError(f"params must be True or False, got {params!r}")
        metadata = {"format": FORMAT, "format_version": VERSION}
        if extra is not None:
            metadata["extra"] = encode_extra(extra)
        safe_open = import_safetensors()
        if os.path.isdir(target):
            raise IsADirectoryError(f"path {os.fspath(path)!r} is a directory; name a file in it")
        if os.path.exists(target) and not os.path.isfile(target):
            raise ValueError(f"path {os.fspath(path)!r} is no regular file, which a checkpoint would replace")
        collected = Collected(contents, bool(params))
        metadata["param_groups"] = collected.groups()
        schedules = [definition_of(group.options["lr"]) for group in contents.groups]
        if any(schedules):
            metadata["schedules"] = json.dumps(schedules, allow_nan=False)
        rates = [group.options["lr"] for group in contents.groups]
        if any(callable(lr) and made is None for lr, made in zip(rates, schedules, strict=True)):
            metadata["note"] = NOTE
        header, nbytes = make_header(collected, metadata)
        with bar(progress, nbytes, "saving") as advance:
            with header.getbuffer() as described:
                digest = hashlib.blake2b(described).digest()
            contents.peers.agree({"the path": os.fsencode(target), "extra, or in what is to be saved": digest})
            write(target, header, collected, metadata, safe_open, advance, contents.peers)


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
        An optimizer over parameters of the same shapes and dtypes, in as many groups. A number or a schedule of
        `fastadam.schedules` in the file takes the place of whatever `lr` was. Where the file has null for it,
        because it was another function, the optimizer's must be one and stays. Parameters that the file does
        not hold (``params=False``) stay as they are. If it keeps averages that the file does not hold, they begin
        as the parameters are then; if the file holds averages and it keeps none, that is refused.
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
        If the file cannot be opened.
    ImportError
        If the package safetensors is missing, or tqdm for a progress bar.

    Notes
    -----
    The file is memory-mapped and copied from there in pieces, so that loading takes little memory, however
    large the file. It must not be changed in place meanwhile: a mapped file that gets shorter, or whose disk
    fails, ends the process (SIGBUS). `save` never does that; it replaces the file, and a load under way goes on
    with the old one. An interrupt (Ctrl-C) that arrives once numbers are being read waits until all are.
    """
    _check_optimizer(opt)
    with opt._exclusive("load") as contents:
        name = os.path.realpath(_check_path(path))
        safe_open = import_safetensors()
        if os.path.exists(name) and not os.path.isdir(name) and not os.path.isfile(name):
            raise ValueError(f"path {os.fspath(path)!r} is no regular file")  # opening a pipe would wait forever
        with open(name, "rb") as file:
            try:
                source = Source(file.fileno(), name, safe_open)
                checkpoint = Checkpoint(source, contents.groups)
            except (TypeError, ValueError) as error:
                raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from error
            with bar_of_its_own(progress, checkpoint.nbytes, "loading") as source.tell:
                contents.take_over(checkpoint.state, checkpoint.params)
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
