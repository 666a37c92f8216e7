"""Mail to live connections: which connection an agent's mailbox is pushed to, and when. Keeps no mail itself.

A session that outlives its connection has a mailbox from the moment it listens to its inbox; what is said to
its agent goes through that, so it is kept until acknowledged, whether the agent is there or asleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dragoman.routing.refusals import Refusal

if TYPE_CHECKING:
    from dragoman.broker.directory import Directory
    from dragoman.broker.mailbox import Attachment, Mailboxes
    from dragoman.broker.session import Session
    from dragoman.broker.verbs import Verbs
    from dragoman.routing.message import Message

MAILBOX = "mailbox"


@final
class Post:
    """Joins mailboxes to the sessions that listen."""

    def __init__(self, directory: Directory, verbs: Verbs, mailboxes: Mailboxes) -> None:
        self._directory = directory
        self._verbs = verbs
        self._mailboxes = mailboxes
        self._attached: dict[Session, Attachment] = {}
        verbs.mail = mailboxes.post
        verbs.when_listening(self._listens)

    def _listens(self, session: Session) -> None:
        """The session hears its inbox: if it is kept, its mail is pushed to it from now on."""
        agent = self._directory.get(session.agent)
        if agent is None or session in self._attached or session.protocol not in agent.kept or not agent.connected:
            return
        opened = self._mailboxes.open(session.agent)
        if isinstance(opened, Refusal):
            return
        attachment: Attachment

        def deliver(message: Message) -> bool:
            return self._verbs.push(session, message, attachment)

        attachment = opened.attach(deliver)
        self._attached[session] = attachment

    def resume(self, session: Session) -> None:
        """The session has credit again."""
        attachment = self._attached.get(session)
        if attachment is not None and attachment.full:
            attachment.resume()

    def detach(self, session: Session) -> None:
        """The session has ended: what it did not acknowledge waits for the next."""
        attachment = self._attached.pop(session, None)
        if attachment is not None:
            attachment.detach()

    def expired(self, agent: str, protocol: str) -> None:
        """A kept session of the agent is over. If nothing else holds the agent, its mail goes with it."""
        entry = self._directory.get(agent)
        if entry is not None and set(entry.kept) <= {protocol, MAILBOX}:
            self._mailboxes.close(agent)
        self._directory.release(agent, protocol)
