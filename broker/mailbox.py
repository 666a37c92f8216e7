"""Mailboxes: an agent's own durable work group of one, which fills while the agent sleeps.

What is said to an agent is kept in a channel of its own, ``$mail/{agent}``, which nobody can name to the
gate. It is pushed to the agent's live connection or pulled like from any work group, and is gone when
acknowledged. A full mailbox refuses new mail; what nobody could deal with goes to ``$mail/{agent}/dead``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, final

from dragoman.broker.channel import Channel, Keep
from dragoman.broker.group_rows import MAILBOX, MailboxRow, Terms, digest, rows_of, save
from dragoman.broker.inner_session import InnerSession
from dragoman.broker.log.weight import weight
from dragoman.broker.principal import MESH
from dragoman.broker.rows import decode_row
from dragoman.broker.workgroup import WorkGroup
from dragoman.routing.message import EMPTY, Envelope, Message
from dragoman.routing.names import check_agent, shown, to_level
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.broker.log.contract import Ticket
    from dragoman.broker.session import Session
    from dragoman.broker.settings_groups import GroupSettings
    from dragoman.broker.workshop import Workshop

MAIL: Final = "$mail/"

HEARD_AS: Final = "mesh-heard-as"
"""The header that keeps the name under which the agent hears a piece of mail, where that is not its inbox."""


@final
class Attachment:
    """A live connection that mail is pushed to. Implements ``subscription.ShareMember``: set it as ``Feed.group``."""

    __slots__ = ("_mailbox", "deliver", "full", "holds")

    def __init__(self, mailbox: Mailbox, deliver: Callable[[Message], bool]) -> None:
        self._mailbox = mailbox
        self.deliver = deliver
        self.full = False
        self.holds: dict[int, None] = {}

    @property
    def place(self) -> bytes:
        """None: mail is never of QoS 2."""
        return b""

    def settled(self, message: Message) -> None:
        """The agent has acknowledged the mail: it is gone for good."""
        self.finish(message.position)

    def refused(self, message: Message) -> None:
        """The agent will not have it: it is read, and no worse for that."""
        self.settled(message)

    def unfit(self, message: Message) -> bool:
        """The agent's client cannot take it: nobody else is there to."""
        self.settled(message)
        return False

    def finish(self, position: int) -> None:
        """The same, by the mail's position."""
        if self.holds.pop(position, _ABSENT) is None:
            self._mailbox.group.settle(position)

    def returned(self, message: Message) -> None:
        """The connection ended before that: the mail waits for the next one."""
        if self.holds.pop(message.position, _ABSENT) is None:
            self._mailbox.group.put_back(message.position)

    def resume(self) -> None:
        """There is credit again after ``deliver`` said no."""
        self.full = False
        self._mailbox.group.wake()

    def detach(self) -> None:
        """The connection is gone, or listens no more. Idempotent."""
        self._mailbox.detach(self)


_ABSENT: Final = object()


@final
class Mailbox:
    """One agent's mail. ``count`` and ``bytes`` are of what is not finished."""

    __slots__ = ("_attached", "_inbox", "agent", "bytes", "channel", "count", "group")

    def __init__(self, agent: str, channel: Channel, group: WorkGroup, inbox: str) -> None:
        self.agent = agent
        self.channel = channel
        self.group = group
        self._inbox = inbox
        self._attached: dict[Attachment, None] = {}
        log = channel.core.log
        first, after = log.bounds(channel.number)
        self.count = after - first - group.done_above
        self.bytes = log.bytes_of(channel.number)
        group.finished = self._finished
        group.push = self._push

    def attach(self, deliver: Callable[[Message], bool]) -> Attachment:
        """Pushes what is there and what comes, from the end of this turn on."""
        attachment = Attachment(self, deliver)
        self._attached[attachment] = None
        self.group.wake()
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """See ``Attachment.detach``."""
        if self._attached.pop(attachment, _ABSENT) is None:
            for position in list(attachment.holds):
                del attachment.holds[position]
                self.group.put_back(position)

    @property
    def attached(self) -> bool:
        """Whether a live connection has mail pushed to it."""
        return bool(self._attached)

    def heard(self, mail: Message) -> Message:
        """Mail that was pulled, as its agent is to hear it: under the name it was said to."""
        return _as_heard(mail, self._inbox)

    def full(self, size: int, settings: GroupSettings) -> bool:
        """Whether ``size`` more bytes are too much."""
        return self.count >= settings.mail_max or self.bytes + size > settings.mail_bytes_max

    def _push(self, message: Message) -> bool:
        for attachment in self._attached:
            if attachment.full:
                continue
            # Before the delivery: what the connection has to skip is settled at once.
            attachment.holds[message.position] = None
            if attachment.deliver(_as_heard(message, self._inbox)):
                return True
            attachment.holds.pop(message.position, None)
            attachment.full = True
        return False

    def _finished(self, message: Message) -> None:
        """Makes room, and frees in the log what is before the first unfinished mail."""
        self.count -= 1
        self.bytes -= weight(message)
        if self.count <= 0:
            self.count = self.bytes = 0
        oldest = self.group.oldest
        done_below = oldest.offset if oldest is not None else message.offset + 1
        log = self.channel.core.log
        if done_below > log.bounds(self.channel.number)[0]:
            log.release(self.channel.number, done_below)


@final
class Mailboxes:
    """All mailboxes. ``start`` once, after the work groups'."""

    def __init__(
        self,
        shop: Workshop,
        settings: GroupSettings,
        *,
        inbox: str,
        keep: Callable[[str, str], object],
        release: Callable[[str, str], object],
    ) -> None:
        """``inbox``: the name agents hear mail under. ``keep``, ``release``: tell the directory (agent, what)."""
        self._shop = shop
        self._core = shop.core
        self._settings = settings
        self._inbox = inbox
        self._keep = keep
        self._release = release
        self._mailboxes: dict[str, Mailbox] = {}
        self._session = InnerSession(MESH, settled=self._settled)
        self._uncommitted: dict[Ticket, list[tuple[Mailbox, int]]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._mailboxes)

    def start(self) -> None:
        """Goes on with what the log remembers: mail that was not acknowledged is there."""
        for value in rows_of(self._core.log, MAILBOX):
            self._enter(decode_row(value, MailboxRow).agent)

    def stop(self) -> None:
        """Tells those who wait."""
        for mailbox in self._mailboxes.values():
            mailbox.group.close(Refusal(Reason.SHUTTING_DOWN, "the mesh is shutting down"), forget=False)
        self._mailboxes.clear()

    # -- mailboxes -----------------------------------------------------------------------------------

    def open(self, agent: str) -> Mailbox | Refusal:
        """The agent's mailbox, made if there is none: at its first durable use. Whose id it is has been checked."""
        known = self._mailboxes.get(agent)
        if known is not None:
            return known
        refusal = check_agent(agent)
        if refusal is None and len(self._mailboxes) >= self._settings.mailboxes_max:
            detail = f"there are {len(self._mailboxes)} mailboxes, groups.mailboxes_max allows no more"
            refusal = Refusal(Reason.QUOTA_EXCEEDED, detail)
        if refusal is not None:
            return self._no(refusal)
        mailbox = self._enter(agent)
        if not isinstance(mailbox, Refusal):
            mailbox.group.ticket = save(self._core.log, MAILBOX, digest(agent), MailboxRow(agent=agent))
            self._keep(agent, "mailbox")
        return mailbox

    def exists(self, agent: str) -> bool:
        """Whether mail can be left for this agent."""
        return agent in self._mailboxes

    def get(self, agent: str) -> Mailbox | None:
        """The agent's mailbox, if it has one. Its group asks itself who may use it."""
        return self._mailboxes.get(agent)

    def of(self, session: Session, agent: str) -> Mailbox | Refusal:
        """The mailbox for its agent to pull from (``.group``), made if need be. Nobody else gets at it."""
        return self._guard(session, agent) or self.open(agent)

    def close(self, agent: str) -> None:
        """The agent is no more, or wants no mail: what is in the mailbox is gone."""
        mailbox = self._mailboxes.pop(agent, None)
        if mailbox is None:
            return
        self._core.metrics.drop("mailbox-closed", mailbox.count)
        mailbox.group.close(Refusal(Reason.GONE, f"the mailbox of {shown(agent)} was closed"), forget=True)
        save(self._core.log, MAILBOX, digest(agent), None)
        for name in (mailbox.channel.name, mailbox.group.terms.dead_letter):
            channel = self._shop.channels.find(name)
            if channel is not None:
                self._shop.channels.declare(channel, Keep.NONE)
                self._core.log.release(channel.number, channel.next_offset)
        self._release(agent, "mailbox")

    def list(self) -> Iterable[Mailbox]:
        """All of them."""
        return self._mailboxes.values()

    # -- mail ----------------------------------------------------------------------------------------

    def mail(self, sender: Session, agent: str, message: Message) -> Ticket | Refusal:
        """Leaves mail; ``sender`` hears of the ticket. Whether it may has been asked. See ``post``."""
        message.sender = sender.agent
        answer = self.post(agent, message)
        if answer is None:
            detail = f"agent {shown(agent)} has no mailbox"
            return self._no(Refusal(Reason.AGENT_UNREACHABLE, detail))
        if not isinstance(answer, Refusal):
            self._core.commits.tell(answer, sender)
        return answer

    def post(self, agent: str, message: Message) -> Ticket | Refusal | None:
        """Leaves mail that is heard as ``message.name``; the ticket of its commit. None: there is no mailbox.

        Mail is always kept, whatever its wish. Number, offset and time are set as by ``publish``.
        """
        mailbox = self._mailboxes.get(agent)
        if mailbox is None:
            return None
        mail = self._letter(mailbox, message)
        size = weight(mail)
        settings = self._settings
        if mailbox.full(size, settings):
            mailbox.group.drop_expired()
        if mailbox.full(size, settings):
            detail = (
                f"the mailbox of {shown(agent)} holds {mailbox.count} messages of {mailbox.bytes} bytes; "
                f"{settings.mail_max} messages and {settings.mail_bytes_max} bytes are allowed"
            )
            return self._no(Refusal(Reason.MAILBOX_FULL, detail, retry_after_ms=60_000))
        self._core.tick()
        answer = mailbox.channel.append(mail)
        if isinstance(answer, Refusal):
            return self._no(answer)
        assert answer, "mail is always logged"
        mailbox.count += 1
        mailbox.bytes += size
        self._uncommitted.setdefault(answer, []).append((mailbox, size))
        self._core.commits.tell(answer, self._session)
        message.number, message.offset, message.time_ms = mail.number, mail.offset, mail.time_ms
        return answer

    def attach(self, agent: str, deliver: Callable[[Message], bool]) -> Attachment | None:
        """Pushes the agent's mail to a live connection, renamed to what it is heard as; None: there is no mailbox.

        ``deliver`` answers False when it has no credit; ``Attachment.resume`` says that it has again.
        """
        mailbox = self._mailboxes.get(agent)
        return mailbox.attach(deliver) if mailbox is not None else None

    # -- within --------------------------------------------------------------------------------------

    def _settled(self, ticket: Ticket, refusal: Refusal | None) -> None:
        """Mail of a commit that failed was never there: it takes no room."""
        if refusal is None:
            for safe in [t for t in self._uncommitted if t <= ticket]:
                del self._uncommitted[safe]
            return
        for mailbox, size in self._uncommitted.pop(ticket, ()):
            mailbox.count -= 1
            mailbox.bytes -= size

    def _letter(self, mailbox: Mailbox, message: Message) -> Message:
        envelope = message.envelope
        if message.name != self._inbox:
            envelope = _with_headers(envelope or EMPTY, ((HEARD_AS, message.name.encode()),))
        return Message(mailbox.channel.name, message.payload, message.wish, message.sender, False, envelope)

    def _enter(self, agent: str) -> Mailbox | Refusal:
        name = MAIL + to_level(agent)
        channel = self._shop.channels.open(name, "")
        if isinstance(channel, Refusal):
            return self._no(channel)
        if channel.declared is not Keep.ALL:
            self._shop.channels.declare(channel, Keep.ALL)
        settings = self._settings
        group = WorkGroup(
            self._shop,
            b"mail:" + digest(agent),
            f"mailbox of {agent}",
            name,
            Terms(
                lease_ms=settings.lease_ms,
                deliveries_max=settings.deliveries_max,
                backoff_ms=settings.backoff_ms,
                backoff_max_ms=settings.backoff_max_ms,
                dead_letter=f"{name}/dead",
            ),
            owner=MESH,
            agent="",
            guard=lambda session: self._guard(session, agent),
            each=False,
            own_dead_letters=True,
        )
        mailbox = self._mailboxes[agent] = Mailbox(agent, channel, group, self._inbox)
        group.start()
        return mailbox

    def _guard(self, session: Session, agent: str) -> Refusal | None:
        if session.agent == agent or session.principal.admin:
            return None
        detail = f"{session.agent or session.principal.name!r} is not {shown(agent)}, whose mailbox this is"
        return self._no(Refusal(Reason.NOT_AUTHORIZED, detail))

    def _no(self, refusal: Refusal) -> Refusal:
        self._core.metrics.refuse(refusal.reason)
        return refusal


def _with_headers(envelope: Envelope, added: tuple[tuple[str, bytes | None], ...]) -> Envelope:
    """A copy with other headers: ours at the end, earlier ones of that name gone, nothing verbatim any more."""
    names = {HEARD_AS}
    return Envelope(
        sent_ms=envelope.sent_ms,
        key=envelope.key,
        headers=(*(header for header in envelope.headers if header[0] not in names), *added),
        content_type=envelope.content_type,
        reply_to=envelope.reply_to,
        correlation=envelope.correlation,
        expires_ms=envelope.expires_ms,
        cause=envelope.cause,
        hops=envelope.hops,
        text=envelope.text,
    )


def _as_heard(mail: Message, inbox: str) -> Message:
    """Mail as its agent hears it: same id, same place in the log, another name."""
    name = inbox
    envelope = mail.envelope
    heard_as = envelope.header(HEARD_AS) if envelope is not None else None
    if envelope is not None and heard_as is not None:
        name = heard_as.decode()
        envelope = _with_headers(envelope, ())
    heard = Message(name, mail.payload, 1, mail.sender, False, envelope)
    heard.number = mail.number
    heard.offset = mail.offset
    heard.time_ms = mail.time_ms
    heard.position = mail.position
    return heard
