"""The authenticator's part in logins in steps: who may begin which, who it is in the end, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dragoman.adapters.serving import settings
from dragoman.adapters.serving.credentials import Authenticator, hash_password, new_token, scram_verifier
from dragoman.adapters.serving.logins import Login, Proven
from dragoman.adapters.serving.settings import LoginSettings, UserSettings
from dragoman.broker.metrics import Metrics
from dragoman.routing.refusals import Reason, Refusal
from tests.serving.sasl_clients import ScramClient, bearer

TOKEN, DIGEST = new_token()
ANN = UserSettings("ann", scram=scram_verifier(b"secret"), groups=("ops",), admin=True)
BOB = UserSettings("bob", tokens=(DIGEST,))
EVE = UserSettings("eve", hash_password(b"secret"))


class NoLoop:
    """Nothing here is hashed, so nothing comes from another thread."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        raise AssertionError("a login in steps waits for nobody")


@pytest.fixture
def door() -> Iterator[Callable[..., Authenticator]]:
    made: list[Authenticator] = []

    def make(*users: UserSettings) -> Authenticator:
        made.append(Authenticator(LoginSettings(users=users), NoLoop(), Metrics()))
        return made[-1]

    yield make
    for authenticator in made:
        authenticator.close()


def login(authenticator: Authenticator, mechanism: str = "SCRAM-SHA-256") -> Login:
    found = authenticator.begin(mechanism)
    assert found is not None
    return found


def scram(authenticator: Authenticator, user: str, password: str) -> Proven | Refusal:
    one, client = login(authenticator), ScramClient(user, password)
    challenge = one.step(client.first())
    assert isinstance(challenge, bytes)
    said = one.step(client.final(challenge))
    assert not isinstance(said, bytes)
    assert isinstance(said, Refusal) or client.trusts(said.data)
    return said


def salt(authenticator: Authenticator, user: str) -> bytes:
    challenge = login(authenticator).step(ScramClient(user, "").first())
    assert isinstance(challenge, bytes)
    return challenge.split(b",")[1]


def counts(authenticator: Authenticator) -> tuple[int, int]:
    return authenticator._metrics.logins, authenticator._metrics.logins_failed


def test_a_mechanism_is_offered_when_somebody_could_use_it(door: Callable[..., Authenticator]) -> None:
    assert [door(*users).mechanisms for users in ((), (EVE,), (ANN,), (BOB,), (BOB, ANN))] == [
        (),
        (),
        ("SCRAM-SHA-256",),
        ("OAUTHBEARER",),
        ("SCRAM-SHA-256", "OAUTHBEARER"),
    ]
    both = door(ANN, BOB)
    assert [both.begin(name) for name in ("PLAIN", "scram-sha-256", "SCRAM-SHA-256-PLUS", "", "SCRAM-SHA-1")] == [
        None
    ] * 5
    assert door(BOB).begin("SCRAM-SHA-256") is None


def test_a_proof_gives_the_user_as_configured(door: Callable[..., Authenticator]) -> None:
    authenticator = door(ANN, BOB)
    said = scram(authenticator, "ann", "secret")
    assert isinstance(said, Proven)
    assert (said.principal.name, said.principal.groups, said.principal.admin) == ("ann", frozenset({"ops"}), True)
    assert counts(authenticator) == (1, 0)


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "Secret"), ("nobody", "secret"), ("eve", "secret"), ("bob", TOKEN)],
    ids=["wrong", "nobody", "password", "token"],
)
def test_no_proof_no_user(door: Callable[..., Authenticator], user: str, password: str) -> None:
    authenticator = door(ANN, BOB, EVE)
    said = scram(authenticator, user, password)
    assert isinstance(said, Refusal)
    assert said.reason is Reason.NOT_AUTHENTICATED
    assert counts(authenticator) == (0, 1)


def test_a_malformed_message_is_counted_too(door: Callable[..., Authenticator]) -> None:
    authenticator = door(ANN, BOB)
    for mechanism in authenticator.mechanisms:
        assert isinstance(login(authenticator, mechanism).step(b"what"), Refusal)
    assert counts(authenticator) == (0, 2)


def test_the_salt_of_nobody_is_always_the_same_also_after_a_restart(door: Callable[..., Authenticator]) -> None:
    one, other = door(ANN, EVE), door(ANN, EVE)
    for user in ("ann", "eve", "nobody"):
        assert salt(one, user) == salt(one, user) == salt(other, user)
    assert len({salt(one, user) for user in ("ann", "eve", "nobody", "somebody")}) == 4
    assert len({len(salt(one, user)) for user in ("ann", "eve", "nobody")}) == 1
    assert salt(door(ANN, BOB), "nobody") != salt(one, "nobody"), "what decoys are made of is secret"


def test_users_that_change_within_a_login(door: Callable[..., Authenticator]) -> None:
    for users in ((BOB,), (UserSettings("ann", scram=scram_verifier(b"secret")),), ()):
        authenticator, client = door(ANN, BOB), ScramClient("ann", "secret")
        late, one = login(authenticator), login(authenticator)
        challenge = one.step(client.first())
        assert isinstance(challenge, bytes)
        authenticator.replace(LoginSettings(users=users))
        assert isinstance(one.step(client.final(challenge)), Refusal)
        assert isinstance(late.step(client.first()), bytes)


def test_a_mesh_that_stops_lets_nobody_in(door: Callable[..., Authenticator]) -> None:
    authenticator, client = door(ANN, BOB), ScramClient("ann", "secret")
    one, other = login(authenticator), login(authenticator, "OAUTHBEARER")
    challenge = one.step(client.first())
    assert isinstance(challenge, bytes)
    authenticator.close()
    for said in (one.step(client.final(challenge)), other.step(bearer(TOKEN))):
        assert isinstance(said, Refusal)
        assert said.reason is Reason.SHUTTING_DOWN


@pytest.mark.parametrize("acting_as", ["", "bob"])
def test_a_token_is_its_user(door: Callable[..., Authenticator], acting_as: str) -> None:
    authenticator = door(ANN, BOB)
    said = login(authenticator, "OAUTHBEARER").step(bearer(TOKEN, acting_as=acting_as))
    assert isinstance(said, Proven)
    assert (said.principal.name, said.data) == ("bob", b"")
    assert counts(authenticator) == (1, 0)


@pytest.mark.parametrize(("token", "acting_as"), [(TOKEN + "x", ""), (TOKEN, "ann")], ids=["nobody", "other"])
def test_a_token_of_nobody_or_for_somebody_else(door: Callable[..., Authenticator], token: str, acting_as: str) -> None:
    authenticator = door(ANN, BOB)
    said = login(authenticator, "OAUTHBEARER").step(bearer(token, acting_as=acting_as))
    assert isinstance(said, Refusal)
    assert said.reason is Reason.NOT_AUTHENTICATED
    assert counts(authenticator) == (0, 1)


@pytest.mark.parametrize(
    ("user", "part"),
    [
        (UserSettings("a\u00adn", scram=ANN.scram), "SASLprep"),
        (UserSettings("a\u0007", scram=ANN.scram), "SASLprep"),
        (UserSettings("ann"), "neither password nor tokens"),
    ],
)
def test_users_nobody_could_be_are_told(user: UserSettings, part: str) -> None:
    assert part in str(settings._users_problem((user,)))
    assert settings._users_problem((ANN, BOB)) is None
