from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from dragoman.adapters.serving import credentials as module
from dragoman.adapters.serving.credentials import (
    LOCAL_OPERATOR,
    Authenticator,
    Credentials,
    ScryptHash,
    hash_password,
    new_token,
    parse_password,
    password_problem,
    token_digest,
)
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.metrics import Metrics
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.routing.refusals import Reason, Refusal

SECRET = b"correct horse"
HASH = "scrypt$16384$8$1$BGMDEpcKg4q2KVuKIUCHwg==$V4ktka/Z4/raKHl827hQQuYcc6T7XqY9V3YmzjmbBpc="
TOKEN, DIGEST = new_token()
ANN = UserSettings("ann", HASH, (DIGEST,), ("ops",), ("pump",), admin=True)
BOB = UserSettings("bob", tokens=(token_digest("bobs"),))


class HandLoop:
    """A loop whose thread is the test's: callbacks run when the test says so."""

    def __init__(self) -> None:
        self._callbacks: queue.Queue[tuple[Callable[..., object], tuple[object, ...]]] = queue.Queue()

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        self._callbacks.put((callback, args))

    def turn(self) -> None:
        callback, args = self._callbacks.get(timeout=10)
        callback(*args)

    def idle(self) -> bool:
        return self._callbacks.empty()


class Desk:
    """An authenticator and what it answered."""

    def __init__(self, *users: UserSettings, **settings: object) -> None:
        self.loop = HandLoop()
        self.metrics = Metrics()
        self.authenticator = Authenticator(LoginSettings(users=users, **settings), self.loop, self.metrics)
        self.answers: list[Principal | Refusal] = []

    def ask(
        self,
        username: str | None = None,
        password: bytes | None = None,
        token: str | None = None,
        *,
        here: bool = False,
    ) -> None:
        self.authenticator.check(Credentials(username, password, token, here), self.answers.append)


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(*users: UserSettings, **settings: object) -> Desk:
        desks.append(Desk(*users, **settings))
        return desks[-1]

    yield make
    for made in desks:
        made.authenticator.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Semaphore, list[bytes]]]:
    """Hashing that waits for the test, and the list of what was hashed."""
    go = threading.Semaphore(0)
    hashed: list[bytes] = []

    def fits(self: ScryptHash, password: bytes) -> bool:
        go.acquire(timeout=10)
        hashed.append(password)
        return password == SECRET

    monkeypatch.setattr(ScryptHash, "fits", fits)
    yield go, hashed
    for _ in range(100):
        go.release()


def is_no(answer: object) -> bool:
    return isinstance(answer, Refusal) and answer.reason is Reason.NOT_AUTHENTICATED


def test_a_hash_fits_its_password_only_and_is_salted() -> None:
    parsed = parse_password(HASH)
    assert parsed is not None
    assert parsed.fits(SECRET)
    assert not parsed.fits(SECRET + b"s")
    assert hash_password(SECRET) != HASH
    assert SECRET.decode() not in HASH


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        HASH + "x$",
        HASH.replace("$16384$", "$16383$"),
        HASH.replace("$16384$", "$1048576$"),
        HASH.replace("$8$", "$0$"),
        HASH.replace("$16384$8$1$", "$16384$8$9$"),
        "scrypt$16384$8$1$AAAA$AAAA",
        "scrypt$16384$8$1$A===$AAAA",
    ],
)
def test_a_hash_that_cannot_be_used_is_refused_without_showing_it(text: str) -> None:
    problem = password_problem(text)
    assert problem is not None
    assert not text or text not in problem


def test_a_right_password_becomes_its_principal_and_is_remembered(desk: Callable[..., Desk]) -> None:
    it = desk(ANN, BOB)
    it.ask("ann", SECRET)
    assert it.answers == []
    it.loop.turn()
    principal = it.answers[0]
    assert isinstance(principal, Principal)
    assert (principal.name, principal.groups, principal.agents, principal.admin) == (
        "ann",
        frozenset({"ops"}),
        frozenset({"pump"}),
        True,
    )
    it.ask("ann", SECRET)
    assert it.answers[1] is principal
    assert it.metrics.logins == 2


@pytest.mark.parametrize(("name", "word"), [("ann", b"wrong"), ("eve", SECRET), ("bob", SECRET)])
def test_a_wrong_one_is_hashed_all_the_same_and_then_remembered(
    desk: Callable[..., Desk], name: str, word: bytes
) -> None:
    it = desk(ANN, BOB)
    it.ask(name, word)
    assert it.answers == []
    it.loop.turn()
    assert is_no(it.answers[0])
    it.ask(name, word)
    assert is_no(it.answers[1])
    assert it.loop.idle()
    assert it.metrics.logins_failed == 2


def test_an_unknown_user_and_a_wrong_password_look_the_same(desk: Callable[..., Desk]) -> None:
    it = desk(ANN)
    for name in ("ann", "eve"):
        it.ask(name, b"wrong")
        it.loop.turn()
    assert it.answers[0] == it.answers[1]


def test_no_plain_password_stays_in_memory_of_ours(desk: Callable[..., Desk]) -> None:
    it = desk(ANN)
    it.ask("ann", SECRET)
    it.loop.turn()
    assert all(SECRET not in key for key in it.authenticator._accepted)
    assert not it.authenticator._waiting


def test_tokens_answer_at_once(desk: Callable[..., Desk]) -> None:
    it = desk(ANN, BOB)
    it.ask(token=TOKEN)
    it.ask(token="bobs")
    it.ask(token=DIGEST)
    it.ask(token="")
    it.ask("bob", b"bobs")
    names = [answer.name if isinstance(answer, Principal) else answer.reason for answer in it.answers]
    no = Reason.NOT_AUTHENTICATED
    assert names == ["ann", "bob", no, no, "bob"]


def test_another_users_token_is_no_password(desk: Callable[..., Desk]) -> None:
    it = desk(ANN, BOB)
    it.ask("ann", b"bobs")
    it.loop.turn()
    assert is_no(it.answers[0])


def test_half_of_a_pair_is_refused(desk: Callable[..., Desk]) -> None:
    it = desk(ANN)
    it.ask("ann", here=True)
    it.ask(None, SECRET, here=True)
    it.ask("ann", b"x" * (module.PASSWORD_BYTES_MAX + 1), here=True)
    assert [is_no(answer) for answer in it.answers] == [True, True, True]


@pytest.mark.parametrize(
    ("anonymous", "users", "here", "expected"),
    [
        ("loopback", (), True, LOCAL_OPERATOR),
        ("loopback", (), False, None),
        ("loopback", (ANN,), True, ANONYMOUS),
        ("loopback", (ANN,), False, None),
        ("always", (), True, LOCAL_OPERATOR),
        ("always", (), False, ANONYMOUS),
        ("always", (ANN,), False, ANONYMOUS),
        ("never", (), True, None),
        ("never", (ANN,), True, None),
    ],
)
def test_who_needs_no_credentials(
    desk: Callable[..., Desk], anonymous: str, users: tuple[UserSettings, ...], here: bool, expected: object
) -> None:
    it = desk(*users, anonymous=anonymous)
    it.ask(here=here)
    if expected is None:
        assert is_no(it.answers[0])
    else:
        assert it.answers == [expected]


def test_only_the_local_operator_administers() -> None:
    assert LOCAL_OPERATOR.admin
    assert LOCAL_OPERATOR.anonymous
    assert not ANONYMOUS.admin


def test_without_users_a_name_given_by_habit_does_no_harm(desk: Callable[..., Desk]) -> None:
    it = desk()
    it.ask("mqtt", b"mqtt", here=True)
    it.ask("mqtt", b"mqtt")
    assert it.answers[0] is LOCAL_OPERATOR
    assert is_no(it.answers[1])


def test_with_users_wrong_credentials_never_fall_back_to_anonymous(desk: Callable[..., Desk]) -> None:
    it = desk(ANN, anonymous="always")
    it.ask("ann", b"wrong", here=True)
    it.loop.turn()
    it.ask(token="wrong", here=True)
    assert [is_no(answer) for answer in it.answers] == [True, True]


def test_the_line_is_bounded_and_says_busy(
    desk: Callable[..., Desk], held: tuple[threading.Semaphore, list[bytes]]
) -> None:
    it = desk(ANN, waiting_max=3, hash_threads=1)
    for number in range(4):
        it.ask("ann", b"%d" % number)
    assert [answer.reason for answer in it.answers if isinstance(answer, Refusal)] == [Reason.BUSY]
    assert isinstance(it.answers[0], Refusal)
    assert it.answers[0].retry_after_ms > 0
    held[0].release()
    it.loop.turn()
    it.ask("ann", b"again")
    assert len(it.answers) == 2


def test_many_with_one_password_cost_one_hash(
    desk: Callable[..., Desk], held: tuple[threading.Semaphore, list[bytes]]
) -> None:
    go, hashed = held
    it = desk(ANN)
    for _ in range(50):
        it.ask("ann", SECRET)
    go.release()
    it.loop.turn()
    assert len(it.answers) == 50
    assert hashed == [SECRET]
    assert it.authenticator._waiting_count == 0


def test_new_users_forget_old_outcomes_and_judge_those_who_wait(
    desk: Callable[..., Desk], held: tuple[threading.Semaphore, list[bytes]]
) -> None:
    go, _ = held
    it = desk(ANN, hash_threads=1)
    go.release()
    it.ask("ann", SECRET)
    it.loop.turn()
    it.ask("ann", b"waiting")
    it.authenticator.replace(LoginSettings(users=(BOB,), hash_threads=1))
    it.ask("ann", SECRET)
    go.release(2)
    go.release()
    for _ in range(3):
        it.loop.turn()
    assert isinstance(it.answers[0], Principal)
    assert [is_no(answer) for answer in it.answers[1:]] == [True, True]


def test_remembered_outcomes_are_bounded_and_guesses_do_not_push_out_members(
    desk: Callable[..., Desk], held: tuple[threading.Semaphore, list[bytes]]
) -> None:
    go, hashed = held
    it = desk(ANN, remembered_max=4)
    go.release(50)
    it.ask("ann", SECRET)
    it.loop.turn()
    for number in range(20):
        it.ask("ann", b"guess %d" % number)
        it.loop.turn()
    it.ask("ann", SECRET)
    assert isinstance(it.answers[-1], Principal)
    assert hashed.count(SECRET) == 1
    assert len(it.authenticator._refused) == 4


def test_closing_refuses_those_who_wait_and_those_who_come(
    desk: Callable[..., Desk], held: tuple[threading.Semaphore, list[bytes]]
) -> None:
    it = desk(ANN)
    it.ask("ann", SECRET)
    it.authenticator.close()
    it.ask(token=TOKEN)
    assert [answer.reason for answer in it.answers if isinstance(answer, Refusal)] == [Reason.SHUTTING_DOWN] * 2


OTHER = "sha256$" + "0" * 64


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ((ANN, BOB), (ANN, BOB), set()),
        ((ANN, BOB), (ANN,), {"bob"}),
        ((ANN,), (ANN, BOB), {"bob"}),  # until now, somebody whose certificate says so
        ((ANN,), (replace(ANN, groups=(), agents=(), admin=False),), set()),
        ((ANN,), (replace(ANN, tokens=(*ANN.tokens, OTHER)),), set()),
        ((ANN,), (replace(ANN, tokens=(OTHER,)),), {"ann"}),
        ((ANN,), (replace(ANN, password=HASH[:-4] + "AAA="),), {"ann"}),
        ((ANN,), (replace(ANN, certificates=("cn:dev1", "dns:d.example")),), {"dev1", "d.example"}),
        ((replace(ANN, certificates=("cn:dev1",)),), (ANN,), {"ann"}),
    ],
)
def test_who_came_in_by_what_no_longer_holds(
    desk: Callable[..., Desk], before: tuple[UserSettings, ...], after: tuple[UserSettings, ...], lost: set[str]
) -> None:
    assert desk(*before).authenticator.replace(LoginSettings(users=after)) == lost


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (LoginSettings(), LoginSettings(users=(BOB,)), {"bob", "anonymous"}),
        (LoginSettings("always", users=(BOB,)), LoginSettings("loopback", users=(BOB,)), {"anonymous"}),
        (LoginSettings("loopback", users=(BOB,)), LoginSettings("never", users=(BOB,)), {"anonymous"}),
        (LoginSettings("never", users=(BOB,)), LoginSettings("always", users=(BOB,)), set()),
        (LoginSettings(users=(BOB,)), LoginSettings(), {"bob"}),
    ],
)
def test_strangers_are_asked_again_when_it_has_become_stricter(
    before: LoginSettings, after: LoginSettings, lost: set[str]
) -> None:
    authenticator = Authenticator(before, HandLoop(), Metrics())
    assert authenticator.replace(after) == lost
    authenticator.close()


def test_a_user_who_stays_is_the_same_principal_with_what_is_configured_now(desk: Callable[..., Desk]) -> None:
    it = desk(ANN, BOB)
    ann, bob = it.authenticator.named("ann"), it.authenticator.named("bob")
    assert ann is not None
    assert bob is not None
    it.authenticator.replace(LoginSettings(users=(replace(ANN, groups=("new",), agents=(), admin=False),)))
    assert it.authenticator.named("ann") is ann
    assert (ann.groups, ann.agents, ann.admin) == (frozenset({"new"}), frozenset(), False)
    gone = it.authenticator.named("bob")
    assert gone is not None, "its name is still its own"
    assert not any((bob.admin, bob.groups, gone.admin, gone.groups))
    assert it.authenticator.named("link:x") is None, "that was never a user's"
