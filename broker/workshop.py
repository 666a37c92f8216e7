"""What every work group works with, and who waits in which."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from dragoman.broker.backlogs import Backlogs
    from dragoman.broker.channels import Channels
    from dragoman.broker.core import Core
    from dragoman.broker.dead_letters import DeadLetters
    from dragoman.broker.jobs import Pull
    from dragoman.broker.session import Session
    from dragoman.broker.settings_groups import GroupSettings
    from dragoman.broker.timers import Timers
    from dragoman.broker.workgroup import WorkGroup


@final
class Workshop:
    """What every group works with."""

    __slots__ = ("backlogs", "channels", "core", "dead_letters", "settings", "timers", "waiting")

    def __init__(
        self,
        core: Core,
        backlogs: Backlogs,
        channels: Channels,
        timers: Timers,
        dead_letters: DeadLetters,
        settings: GroupSettings,
    ) -> None:
        self.core = core
        self.backlogs = backlogs
        self.channels = channels
        self.timers = timers
        self.dead_letters = dead_letters
        self.settings = settings
        self.waiting: dict[Session, dict[Pull, WorkGroup]] = {}

    def gone(self, session: Session) -> None:
        """The session is detached: what it waits for is of no interest. Its leases go on, they are the principal's."""
        for pull, group in list(self.waiting.get(session, {}).items()):
            group.cancel(pull)
