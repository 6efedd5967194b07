"""What an optimizer holds, as checkpoints and conversions see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastadam.groups.converting import Fill
from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.groups.loading import Loaded
from fastadam.groups.members import Member
from fastadam.groups.saved import state_dict
from fastadam.memory.arrays import Array


class Alone:
    """The processes among which an optimizer's state is shared out, where it is not: there is one.

    Attributes
    ----------
    rank : int
        Which of them this is.
    """

    rank = 0

    def agree(self, topics: Mapping[str, bytes] | None = None) -> None:
        """Wait for all others; raise where one of them has failed, or has another value under a topic."""

    def tell(self, text: str) -> str:
        """Return what the first of them says, after they have agreed."""
        return text


class Contents:
    """The way into an optimizer for those who save it or fill it, while nobody else uses it.

    It is what ``with optimizer._exclusive("save") as contents`` gives; after the block it is not used any more.

    Parameters
    ----------
    groups : Groups
    param_groups : sequence of dict
        As the user may have edited them.
    peers : Alone, optional
        Those among whom the state is shared out.

    Attributes
    ----------
    peers : Alone
        As given.
    groups : sequence of Group
        With the parameters, and the options in use: what the user has edited since the last step is not in
        them before `saved` or `take_over`.
    """

    def __init__(
        self, groups: Groups, param_groups: Sequence[Mapping[str, Any]], peers: Alone | None = None
    ) -> None:
        self._groups = groups
        self.peers = peers or Alone()
        self._param_groups = param_groups

    @property
    def groups(self) -> Sequence[Group]:
        """The groups."""
        return self._groups

    @property
    def members(self) -> list[Member]:
        """The parameters of all groups, in order."""
        return self._groups.members

    def saved(self, *, copy: bool, decode: bool = False) -> dict[str, Any]:
        """Return the state dict (see `fastadam.Adam.state_dict`), after taking up what was edited.

        Parameters
        ----------
        copy : bool
            Whether to copy the moments; without it, those in the dict are the live ones.
        decode : bool, default False
            Whether numbers are to take the place of compact state, as in ``optimizer.state``.

        Raises
        ------
        TypeError, ValueError
            If an option has been edited to something that it cannot be.
        """
        self.catch_up()
        return state_dict(self._groups, copy=copy, decode=decode)

    def catch_up(self) -> None:
        """Take up what was edited in the options.

        Raises
        ------
        TypeError, ValueError
            If an option has been edited to something that it cannot be.
        """
        if self._groups.edits.noticed(self._param_groups):
            self._groups.take_up(self._param_groups)

    def take_over(self, saved: Mapping[str, Any], params: Sequence[tuple[Array, Fill]] = ()) -> None:
        """Check a state dict and take it over, in one go.

        Parameters
        ----------
        saved : mapping
            As `fastadam.Adam.load_state_dict` takes it; a moment can be an `fastadam.groups.converting.Incoming`.
        params : sequence of (array, callable)
            Parameters to be set, too, and what fills them, as `fill` of an `Incoming` does.

        Raises
        ------
        TypeError, ValueError, MemoryError
            If it does not fit, or there is not enough memory; nothing has been changed then.
        """
        loaded = Loaded(saved, self._groups)
        self.peers.agree()
        loaded.take_over(params)
