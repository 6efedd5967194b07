"""How the state of `fastadam.Adam` leaves it, and comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fastadam.groups.contents import Contents
from fastadam.memory.state_file import in_memory
from fastadam.step.laziness import Lazy
from fastadam.work.attributes import Attributes


class Saving(Attributes):
    """State dicts, and who else reads or fills all that an optimizer has; see `fastadam.Adam`."""

    __slots__ = ()

    @property
    def lazy(self) -> Lazy:
        """What becomes of steps that rows miss, as it was given."""
        return self._rows.lazy

    def catch_up(self, rows: Mapping[Any, Any] | None = None) -> None:
        """With ``lazy="exact"``, let rows take the steps that they have missed; call it before they are read.

        A step catches up the rows that it is over by itself; `state_dict`, `averaged`, `fastadam.save` and the
        converters catch up all. It takes the time of the steps that were missed, but for rows that have never had
        a gradient. With ``lazy="skip"``, none are missed.

        Parameters
        ----------
        rows : mapping, optional
            By name, position or array of a parameter: the numbers of its rows that are about to be read, in any
            order, as `fastadam.Rows` takes them. None stands for all rows of all parameters.

        Raises
        ------
        TypeError, ValueError
            If there are no such rows, or a parameter was changed in place.
        """
        with self._guard.lock:
            self._guard.refuse_while_stepping("catch_up")
            self._rows.catch_up(rows)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state and options, in torch's layout with NumPy arrays.

        Returns
        -------
        dict
            ``"state"`` maps the position of each stepped parameter to its ``step``, ``exp_avg``,
            ``exp_avg_sq`` and, with amsgrad, ``max_exp_avg_sq`` and, with averages, ``ema``, in the parameter's
            shape and dtype, whatever the layout; and, where rows have taken less steps than the parameter,
            ``row_step``, those of each row. ``"param_groups"`` lists each group's options, the positions
            ``"params"`` and, where there are names, ``"param_names"``. A callable `lr` is in it as it is.

        Raises
        ------
        TypeError, ValueError
            If an option has been edited to something that it cannot be.
        """
        with self._exclusive("state_dict") as contents:
            return contents.saved(copy=True)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of a saved state and its options.

        Parameters
        ----------
        state_dict : mapping
            What `state_dict` returned, here or in an optimizer over parameters of the same shapes and dtypes
            in any layout, or a torch optimizer's. Where both have names, parameters are matched by name. Averages
            that it lacks begin as the parameters are; those that are not kept here are refused.

        Raises
        ------
        TypeError, ValueError
            If it does not fit; the optimizer is as before then.
        """
        with self._exclusive("load_state_dict") as contents:
            contents.take_over(state_dict)

    @contextlib.contextmanager
    def _exclusive(self, what: str) -> Iterator[Contents]:
        """Keep steps and changes off while checkpoints and conversions, by way of `what`, use what it holds."""
        with self._guard.lock, in_memory(self._groups.file):
            self._guard.refuse_while_stepping(what)
            self._rows.catch_up()
            yield Contents(self._groups, self.param_groups)
