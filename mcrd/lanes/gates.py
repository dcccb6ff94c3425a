"""Which members of a lane send only while somebody has joined their group, and who has."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mcrd.dataplane.messages import MemberKey
from mcrd.model import Address
from mcrd.planning.actual import NOBODY, Changed, Listeners
from mcrd.planning.resources import Egress, Members


class Gates:
    """The outputs of members that have `when`, by the groups that they depend on."""

    def __init__(self) -> None:
        self._listeners = NOBODY
        self._of: dict[MemberKey, frozenset[Egress]] = {}
        self._members: dict[tuple[int, Address], set[MemberKey]] = {}

    def note(self, key: MemberKey, outputs: Iterable[Egress], of: Sequence[Members]) -> None:
        """The member has these outputs, in the order of those of its rule."""
        self.forget(key)
        pairs = zip(outputs, of, strict=True)
        gated = frozenset(egress for egress, output in pairs if output.when)
        if gated:
            self._of[key] = gated
        for egress in gated:
            where = (egress.sending.index, egress.address)
            self._members.setdefault(where, set()).add(key)

    def forget(self, key: MemberKey) -> None:
        """The member has ended, or is to have other outputs."""
        for egress in self._of.pop(key, ()):
            where = (egress.sending.index, egress.address)
            keys = self._members.get(where, set())
            keys.discard(key)
            if not keys:
                self._members.pop(where, None)

    def listen(self, listeners: Listeners, changed: Changed) -> set[MemberKey]:
        """Go by these from now on; the members that this concerns, where these groups changed."""
        self._listeners = listeners
        return {key for group in changed for key in self._members.get(group, ())}

    def shuts(self, key: MemberKey, egress: Egress) -> bool:
        """Whether nobody wants what that output of the member would send."""
        if egress not in self._of.get(key, ()):
            return False
        wanted = self._listeners.get((egress.sending.index, egress.address))
        return wanted is None or not wanted.takes(egress.source)

    def shut(self, key: MemberKey, outputs: Iterable[Egress]) -> bool:
        """Whether nobody wants anything of these outputs of the member."""
        return all(self.shuts(key, egress) for egress in outputs)
