"""All work groups and shared subscriptions: who may make and use them, and what of them the log remembers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.dead_letters import DeadLetters
from dragoman.broker.gate import Action
from dragoman.broker.group_rows import GROUP, GroupRow, Terms, group_row, rows_of, save
from dragoman.broker.queues import Queues
from dragoman.broker.rows import decode_row
from dragoman.broker.shares import Share, Shares
from dragoman.broker.workgroup import WorkGroup
from dragoman.broker.workshop import Workshop
from dragoman.routing.names import check_name, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.backlogs import Backlogs
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core
    from dragoman.broker.principal import Principal
    from dragoman.broker.session import Session
    from dragoman.broker.settings_groups import GroupSettings
    from dragoman.broker.timers import Timers

NAME_BYTES_MAX: Final = 200
"""UTF-8 bytes of a group's name: it is part of keys, whose limit is 511."""

_NOT_IN_NAMES: Final = re.compile(r"[\x00-\x1f\x7f-\x9f/+#]")


@final
class WorkGroups:
    """The groups of one mesh. ``start`` once, after the channels are loaded and before the first message."""

    def __init__(
        self, core: Core, backlogs: Backlogs, channels: Channels, timers: Timers, settings: GroupSettings
    ) -> None:
        self._core = core
        self._settings = settings
        dead_letters = DeadLetters(core, channels, settings)
        self.shop = Workshop(core, backlogs, channels, timers, dead_letters, settings)
        self.shares = Shares(core, backlogs, settings)
        self.queues = Queues(core, self, settings)
        self._groups: dict[str, WorkGroup] = {}
        self._per_principal: dict[str, int] = {}

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Goes on with what the log remembers."""
        for value in rows_of(self._core.log, GROUP):
            row = decode_row(value, GroupRow)
            self._enter(row.name, row.filter, row.terms(), row.owner(), row.agent)
        self.shares.start()

    def stop(self) -> None:
        """Tells those who wait. What is leased is delivered again after the restart."""
        refusal = Refusal(Reason.SHUTTING_DOWN, "the mesh is shutting down")
        for group in self._groups.values():
            group.close(refusal, forget=False)
        self._groups.clear()

    # -- work groups ---------------------------------------------------------------------------------

    def open(
        self,
        session: Session,
        name: str,
        filter_: str,
        *,
        lease_ms: int | None = None,
        deliveries_max: int | None = None,
        backoff_ms: int | None = None,
        backoff_max_ms: int | None = None,
        dead_letter: str | None = None,
    ) -> WorkGroup | Refusal:
        """The group of that name, made if there is none; it then takes what is published from now on.

        None means: the default, or for a group that exists, whatever it has. Asking for another filter or other
        terms than it has is a CONFLICT. ``WorkGroup.ticket`` says when a new one is safe.
        """
        refusal = self._name_fault(name) or self._core.no_reader(session, filter_)
        if refusal is not None:
            return self._no(refusal)
        asked = {
            "lease_ms": lease_ms,
            "deliveries_max": deliveries_max,
            "backoff_ms": backoff_ms,
            "backoff_max_ms": backoff_max_ms,
            "dead_letter": dead_letter,
        }
        given = {option: value for option, value in asked.items() if value is not None}
        known = self._groups.get(name)
        if known is not None:
            terms = replace(known.terms, **given)  # type: ignore[arg-type]
            if known.filter == filter_ and known.terms == terms:
                return known
            detail = f"the group {name!r} exists with filter {shown(known.filter)} and other terms: {known.terms}"
            return self._no(Refusal(Reason.CONFLICT, detail))
        terms = replace(self._default_terms(name), **given)  # type: ignore[arg-type]
        refusal = self._terms_fault(terms) or self._quota(session.principal)
        if refusal is None and dead_letter is not None:
            refusal = check_name(dead_letter) or self._core.refusal(session, Action.PUBLISH, dead_letter)
        if refusal is not None:
            return self._no(refusal)
        row = group_row(name, filter_, session.principal, session.agent, terms)
        group = self._enter(name, filter_, terms, session.principal, session.agent)
        group.ticket = save(self._core.log, GROUP, name.encode(), row)
        return group

    def get(self, name: str) -> WorkGroup | None:
        """The group of that name. It asks the gate itself for whatever is asked of it."""
        return self._groups.get(name)

    def close(self, session: Session, name: str) -> Refusal | None:
        """Its owner (or an administrator) ends the group; what it has not finished is nobody's then."""
        group = self._groups.get(name)
        if group is None:
            return self._no(Refusal(Reason.UNKNOWN_GROUP, f"there is no group {shown(name)}"))
        principal = session.principal
        if principal.name != group.owner.name and not principal.admin:
            detail = f"the group {name!r} belongs to {group.owner.name!r}: only its owner or an administrator closes it"
            return self._no(Refusal(Reason.NOT_AUTHORIZED, detail))
        group.close(Refusal(Reason.GONE, f"the group {name!r} was closed"), forget=True)
        del self._groups[name]
        save(self._core.log, GROUP, name.encode(), None)
        left = self._per_principal[group.owner.name] - 1
        if left:
            self._per_principal[group.owner.name] = left
        else:
            del self._per_principal[group.owner.name]
        return None

    def wake(self) -> None:
        """Rules have changed: what waits may be for somebody who is there."""
        for group in self._groups.values():
            group.wake()

    def list(self) -> Iterable[WorkGroup]:
        """All work groups."""
        return self._groups.values()

    # -- shared subscriptions ------------------------------------------------------------------------

    def share(
        self,
        session: Session,
        group: str,
        filter_: str,
        *,
        wish: int,
        identifier: int = 0,
        keep_retain: bool = False,
        kept: bool = False,
    ) -> Refusal | None:
        """The session is a member of the shared subscription from now on, or again, or with new options.

        ``kept``: its session outlives its connection. While a share has such a member, messages wait for it
        when nobody is connected.
        """
        refusal = self._core.no_reader(session, filter_)
        if refusal is None:
            refusal = self.shares.join(
                session, group, filter_, wish=wish, identifier=identifier, keep_retain=keep_retain, kept=kept
            )
        return self._no(refusal) if refusal is not None else None

    def unshare(self, session: Session, group: str, filter_: str) -> None:
        """The session is no longer a member. What it holds it may still acknowledge."""
        self.shares.leave(session, group, filter_)

    def ended(self, agent: str) -> None:
        """The kept session of this agent is over, whether it was connected or not: it is a member nowhere."""
        self.shares.ended(agent)

    def list_shares(self) -> Iterable[Share]:
        """All shared subscriptions."""
        return self.shares.list()

    # -- sessions ------------------------------------------------------------------------------------

    def gone(self, session: Session) -> None:
        """The session is detached: its waiting pulls end, its shares go on without it."""
        self.shares.gone(session)
        self.queues.gone(session)
        self.shop.gone(session)

    def resume(self, session: Session) -> None:
        """The session has credit again."""
        self.shares.resume(session)
        self.queues.resume(session)

    # -- within --------------------------------------------------------------------------------------

    def _enter(self, name: str, filter_: str, terms: Terms, owner: Principal, agent: str) -> WorkGroup:
        group = WorkGroup(
            self.shop,
            b"group:" + name.encode(),
            name,
            filter_,
            terms,
            owner=owner,
            agent=agent,
            guard=lambda session: self._core.no_reader(session, filter_),
            each=True,
            own_dead_letters=terms.dead_letter == self._default_terms(name).dead_letter,
        )
        self._groups[name] = group
        self._per_principal[owner.name] = self._per_principal.get(owner.name, 0) + 1
        group.start()
        return group

    def _default_terms(self, name: str) -> Terms:
        settings = self._settings
        return Terms(
            lease_ms=settings.lease_ms,
            deliveries_max=settings.deliveries_max,
            backoff_ms=settings.backoff_ms,
            backoff_max_ms=settings.backoff_max_ms,
            dead_letter=f"{settings.dead_root}/{to_level(name)}",
        )

    def _quota(self, principal: Principal) -> Refusal | None:
        settings = self._settings
        if len(self._groups) >= settings.groups_max:
            detail = f"there are {len(self._groups)} groups, groups.groups_max allows no more"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        mine = self._per_principal.get(principal.name, 0)
        if mine >= settings.groups_per_principal_max:
            detail = f"{principal.name!r} has {mine} groups, groups.groups_per_principal_max allows no more"
            return Refusal(Reason.QUOTA_EXCEEDED, detail)
        return None

    def _terms_fault(self, terms: Terms) -> Refusal | None:
        settings = self._settings
        if not 1 <= terms.lease_ms <= settings.lease_max_ms:
            fault = f"lease_ms is {terms.lease_ms}, from 1 to {settings.lease_max_ms} are allowed"
        elif terms.deliveries_max < 1:
            fault = f"deliveries_max is {terms.deliveries_max}, at least 1 is needed"
        elif not 0 <= terms.backoff_ms <= terms.backoff_max_ms <= settings.lease_max_ms:
            fault = (
                f"backoff_ms is {terms.backoff_ms} and backoff_max_ms {terms.backoff_max_ms}: "
                f"0 ≤ backoff_ms ≤ backoff_max_ms ≤ {settings.lease_max_ms} must hold"
            )
        else:
            return None
        return Refusal(Reason.ARGUMENTS_INVALID, fault)

    def _name_fault(self, name: str) -> Refusal | None:
        size = len(name.encode("utf-8", "surrogatepass"))
        if not name or size > NAME_BYTES_MAX:
            detail = f"a group's name has 1 to {NAME_BYTES_MAX} bytes, not {size}"
        elif _NOT_IN_NAMES.search(name) or not name.isprintable():
            detail = f"a group's name holds no control character, /, + or #: {shown(name)}"
        else:
            return None
        return Refusal(Reason.NAME_INVALID, detail)

    def _no(self, refusal: Refusal) -> Refusal:
        self._core.metrics.refuse(refusal.reason)
        return refusal
