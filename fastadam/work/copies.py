"""What an optimizer over arrays is pickled and copied by: everything but addresses, which native code holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastadam.groups.copies import groups_again
from fastadam.step import after, gradient_settings
from fastadam.step.laziness import SKIP


def described(optimizer: Any) -> dict[str, Any]:
    """Return what an optimizer can be made of again by `made_again`; raises TypeError for one on disk."""
    file = optimizer._groups.file
    if file is not None:
        raise TypeError(
            f"an optimizer with its state in a file (state_path={file.path!r}) cannot be copied or pickled: "
            f"a copy would be as large in memory; fastadam.save(path, optimizer), and fastadam.load that into one "
            f"that was made with another state_path"
        )
    return {
        **optimizer._groups.described(),
        "defaults": optimizer.defaults,
        "backend": optimizer._choice.asked_for,
        "threads": optimizer.threads,
        "lazy": optimizer.lazy,
        "gradient_settings": tuple(optimizer._gradient_settings.choices),
        "averaging": tuple(optimizer._averages.choices),
        "skipped_steps": optimizer.skipped_steps,
        "state": optimizer.state_dict(),
        "subclass": dict(optimizer.__dict__),
    }


def made_again(optimizer: Any, state: Mapping[str, Any], make: Callable[..., None]) -> None:
    """Make an optimizer that was only just allocated what another one was.

    Parameters
    ----------
    optimizer : Adam
    state : mapping
        What `described` has returned.
    make : callable
        ``make(optimizer, groups, **options)`` makes it from group dicts.
    """
    choices = gradient_settings.Choices(*state.get("gradient_settings", ()))._asdict()
    averaging = after.Averaging(*state.get("averaging", ()))
    if averaging.ema_decay is not None:
        choices |= averaging._asdict()
    settings = {**choices, "backend": state["backend"], "threads": state["threads"]}
    settings["lazy"] = state.get("lazy", SKIP)
    make(optimizer, groups_again(state), **state["defaults"], **settings)
    optimizer.ema_warmup = averaging.ema_warmup
    optimizer._gradient_settings.skipped_steps = state.get("skipped_steps", 0)
    optimizer._groups.set_trees(state.get("trees"))
    optimizer.load_state_dict(state["state"])
    optimizer.__dict__.update(state["subclass"])
