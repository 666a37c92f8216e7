"""From what a peer shows to whom it is. Never keeps, logs or compares a plain password or token.

A password check costs about 30 ms of CPU, so it runs in a few threads behind a bounded line, and its
outcome is remembered under a keyed digest until the users change.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, TypeVar, final

from dragoman.adapters.serving.certificates import Certificate, reserved, unlisted
from dragoman.adapters.serving.logins import BearerLogin, Login, ScramLogin
from dragoman.adapters.serving.oauthbearer import OAUTHBEARER
from dragoman.adapters.serving.scram import SCRAM_SHA_256, WRONG, Verifier, decoy, parse_verifier, verifier_of
from dragoman.broker.principal import ANONYMOUS, Principal
from dragoman.routing.refusals import Reason, Refusal

if TYPE_CHECKING:
    from dragoman.adapters.serving.settings import LoginSettings, UserSettings
    from dragoman.broker.bans import Bans
    from dragoman.broker.metrics import Metrics

Outcome: TypeAlias = Principal | Refusal
Then: TypeAlias = Callable[[Outcome], None]
T = TypeVar("T")

LOCAL_OPERATOR: Final = Principal("anonymous", admin=True)
"""Whoever is on this machine while no users are configured: it could read our memory anyway, so it may administer."""

PASSWORD_BYTES_MAX: Final = 1_024
"""Longer ones are refused unhashed. MQTT allows 65,535, of which a flood would be expensive."""

RETRY_MS: Final = 1_000

_N, _R, _P = 1 << 14, 8, 1
_MEMORY_MAX: Final = 64 << 20
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_SCRYPT: Final = re.compile(r"scrypt\$([0-9]{1,7})\$([0-9]{1,2})\$([0-9]{1,2})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_DIGEST: Final = re.compile(r"sha256\$[0-9a-f]{64}")


class Credentials(NamedTuple):
    """What a peer shows. ``loopback``: it speaks from this machine, and no proxy speaks for it.

    ``certificate``  if not None, says alone who it is. ``anonymous``: instead of login.anonymous, if not empty
    """

    username: str | None
    password: bytes | None
    token: str | None
    loopback: bool
    certificate: Certificate | None = None
    anonymous: str = ""


class Loop(Protocol):
    """The one thing needed of an event loop."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> object:
        """Runs the callback on the loop's thread, soon."""


# -- hashes ----------------------------------------------------------------------------------------


class ScryptHash(NamedTuple):
    """A password's hash and how it was made."""

    n: int
    r: int
    p: int
    salt: bytes
    value: bytes

    def fits(self, password: bytes) -> bool:
        """Whether this is the password. Slow on purpose."""
        made = hashlib.scrypt(
            password,
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=_MEMORY_MAX + (1 << 20),
            dklen=len(self.value),
        )
        return hmac.compare_digest(made, self.value)


def hash_password(password: bytes) -> str:
    """``scrypt$n$r$p$salt$hash`` with a fresh salt, both in base64. Raises ValueError for what could not be used."""
    if not password:
        raise ValueError("an empty password protects nothing")
    if len(password) > PASSWORD_BYTES_MAX:
        raise ValueError(f"a password has at most {PASSWORD_BYTES_MAX} bytes, this one {len(password)}")
    salt = secrets.token_bytes(_SALT_BYTES)
    value = hashlib.scrypt(password, salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY_MAX, dklen=_HASH_BYTES)
    return f"scrypt${_N}${_R}${_P}${base64.b64encode(salt).decode()}${base64.b64encode(value).decode()}"


def scram_verifier(password: bytes) -> str:
    """What SCRAM needs of a password, to configure. Raises ValueError for what could not be used."""
    if len(password) > PASSWORD_BYTES_MAX:
        raise ValueError(f"a password has at most {PASSWORD_BYTES_MAX} bytes, this one {len(password)}")
    return str(verifier_of(password))


def parse_password(text: str) -> ScryptHash | None:
    """The hash in its parts, or None if it is none or would cost more memory than we allow."""
    found = _SCRYPT.fullmatch(text)
    if found is None:
        return None
    n, r, p = (int(part) for part in found.groups()[:3])
    if n < 2 or n & (n - 1) or r < 1 or p < 1 or 128 * n * r * p > _MEMORY_MAX:
        return None
    try:
        salt, value = (base64.b64decode(part, validate=True) for part in found.groups()[3:])
    except binascii.Error:
        return None
    return ScryptHash(n, r, p, salt, value) if len(salt) >= 8 and 16 <= len(value) <= 64 else None


def password_problem(text: str) -> str | None:
    """Why a configured password hash cannot be used. Does not repeat it, since it may be a plain password."""
    if parse_password(text) is not None:
        return None
    return "this is no password hash of at most 64 MiB; make one with `dragoman password`"


def new_token() -> tuple[str, str]:
    """A fresh token to give away, and its digest to configure."""
    token = secrets.token_urlsafe(32)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """``sha256$hex``. A token is 256 random bits, so it needs no salt and no slow hash."""
    return "sha256$" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def digest_problem(text: str) -> str | None:
    """Why a configured token digest cannot be used. Does not repeat it, since it may be a plain token."""
    if _DIGEST.fullmatch(text):
        return None
    return "this is no token digest (sha256$ and 64 hex digits); make a token and its digest with `dragoman token`"


_NOBODY: Final = ScryptHash(_N, _R, _P, b"\x00" * _SALT_BYTES, b"\x00" * _HASH_BYTES)
"""Checked for an unknown user, so that the time an answer takes does not tell which users exist."""

_NO_VERIFIER: Final = Verifier(4_096, b"\x00" * _SALT_BYTES, b"\x00" * _HASH_BYTES, b"\x00" * _HASH_BYTES)
"""What decoys look like where no user has a verifier."""


# -- checking --------------------------------------------------------------------------------------


class _User(NamedTuple):
    principal: Principal
    password: ScryptHash | None
    digests: frozenset[str]
    scram: Verifier | None


@final
class Authenticator:
    """Checks credentials for every listener of a mesh. Everything but the hashing happens on the loop's thread."""

    def __init__(self, settings: LoginSettings, loop: Loop, metrics: Metrics, bans: Bans | None = None) -> None:
        """``bans``: the mesh's; None = nobody is banned."""
        self._loop = loop
        self._bans = bans
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(settings.hash_threads, thread_name_prefix="dragoman-login")
        self._secret = secrets.token_bytes(32)
        self._waiting: dict[bytes, list[tuple[Credentials, Then]]] = {}
        self._waiting_count = 0
        self._closed = False
        self._users: dict[str, _User] = {}
        #: grows whenever the users change
        self.generation = 0
        self._install(settings)

    def check(self, credentials: Credentials, then: Then) -> None:
        """Calls ``then`` exactly once: at once where no hash is needed, else later on the loop."""
        outcome = self._outcome_now(credentials)
        if outcome is None:
            self._queue(credentials, then)
        else:
            self._tell(outcome, then)

    def named(self, name: str) -> Principal | None:
        """The user of this name as configured now, or who gives no credentials; None for a name no user can have.

        Without groups if nobody configures it any more, or never did: a certificate's subject never had any.
        """
        user = self._users.get(name)
        if user is not None:
            return user.principal
        if name == ANONYMOUS.name:
            return ANONYMOUS
        return None if reserved(name) else Principal(name)

    def begin(self, mechanism: str) -> Login | None:
        """A login in steps, or None for a mechanism that is not among ``mechanisms``."""
        if mechanism not in self.mechanisms:
            return None
        return ScramLogin(self) if mechanism == SCRAM_SHA_256 else BearerLogin(self)

    def verifier(self, name: str) -> Verifier:
        """What a proof of this user's is checked against; of nobody's, one that no proof fits."""
        user = self._users.get(name)
        if user is not None and user.scram is not None:
            return user.scram
        like = next((user.scram for user in self._users.values() if user.scram is not None), _NO_VERIFIER)
        return decoy(name, self._decoys, like)

    def proven(self, name: str, verifier: Verifier) -> Outcome:
        """Who has proven to be ``name``, unless the users have changed meanwhile."""
        if self._closed:
            return Refusal(Reason.SHUTTING_DOWN, "the mesh is stopping")
        user = self._users.get(name)
        return user.principal if user is not None and user.scram == verifier else _no(WRONG)

    def bearer(self, token: str, acting_as: str) -> Outcome:
        """Whose token this is; ``acting_as`` may be empty or that user."""
        outcome = self._outcome_now(Credentials(None, None, token, False))
        assert outcome is not None, "a token needs no hash"
        if isinstance(outcome, Principal) and acting_as not in ("", outcome.name):
            return _no("nobody acts for somebody else here: no authorization id")
        return outcome

    def replace(self, settings: LoginSettings) -> frozenset[str]:
        """Takes new users. Forgets every remembered outcome; checks under way are made again with the new ones.

        A user who stays keeps its ``Principal``, which changes. The number of threads stays as it was. Answers the
        principals whose sessions came in by what no longer holds; ending them is the caller's part.
        """
        lost = _lost(self._settings, settings)
        self.generation += 1
        self._install(settings)
        stale = [entry for entries in self._waiting.values() for entry in entries]
        self._waiting.clear()
        self._waiting_count = 0
        for credentials, then in stale:
            self.check(credentials, then)
        return lost

    def close(self) -> None:
        """Refuses whoever still waits. Does not wait for a hash that is being computed."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for entries in waiting:
            for _, then in entries:
                then(Refusal(Reason.SHUTTING_DOWN, "the mesh is stopping"))

    def _install(self, settings: LoginSettings) -> None:
        self._settings = settings
        before, self._users = self._users, {}
        for user in settings.users:
            known = before.pop(user.name, None)
            self._users[user.name] = _user(user, known.principal if known is not None else Principal(user.name))
        for gone in before.values():
            # What it left to be said, such as a will, is still its own, but it says it as nobody in particular.
            gone.principal.groups = frozenset()
            gone.principal.admin = False
        self._by_digest = {digest: user for user in self._users.values() for digest in user.digests}
        self._by_certificate = {name: self._users[user.name] for user in settings.users for name in user.certificates}
        #: the SASL mechanisms by which some user can log in, besides the plain password
        self.mechanisms = (SCRAM_SHA_256,) * any(user.scram is not None for user in self._users.values())
        self.mechanisms += (OAUTHBEARER,) * bool(self._by_digest)
        # What makes decoys must outlive a restart and be nobody's to know: all the secrets of the configuration.
        secrets_of_all = [text for user in settings.users for text in (user.password, user.scram, *user.tokens)]
        self._decoys = hashlib.sha256("\n".join(secrets_of_all).encode()).digest()
        # Accepted and refused apart, so that a flood of guesses cannot push out those who belong here.
        self._accepted: dict[bytes, Principal] = {}
        self._refused: dict[bytes, Refusal] = {}

    def _outcome_now(self, credentials: Credentials) -> Outcome | None:
        """The outcome where it needs no hash; None where it does."""
        if self._closed:
            return Refusal(Reason.SHUTTING_DOWN, "the mesh is stopping")
        if credentials.certificate is not None:
            return self._certified(credentials.certificate)
        username, password, token = credentials[:3]
        if not self._users or (username is None and password is None and token is None):
            # With no users there is nothing to check against, and many MQTT clients send some name by habit.
            return self._stranger(credentials)
        if token is not None:
            # A look-up by digest: how long it takes tells of the digest, and a digest does not lead to its token.
            user = self._by_digest.get(token_digest(token))
            return user.principal if user is not None else _no("the token is not known here")
        if username is None or password is None:
            return _no("a user name and its password come together")
        if len(password) > PASSWORD_BYTES_MAX:
            return _no(f"a password has at most {PASSWORD_BYTES_MAX} bytes, this one {len(password)}")
        named = self._users.get(username)
        if named is not None and token_digest(password.decode("latin-1")) in named.digests:
            return named.principal
        remembered = self._key(username, password)
        return self._accepted.get(remembered) or self._refused.get(remembered)

    def _certified(self, certificate: Certificate) -> Outcome:
        """The user who has one of these names among its certificates, or is called so."""
        for name in certificate.names:
            user = self._by_certificate.get(name) or self._users.get(name.partition(":")[2])
            if user is not None:
                return user.principal
        return unlisted(certificate)

    def _stranger(self, credentials: Credentials) -> Outcome:
        loopback = credentials.loopback
        allowed = credentials.anonymous or self._settings.anonymous
        if allowed == "never" or (allowed == "loopback" and not loopback):
            rule = "this listener's " if credentials.anonymous else "login."
            where = "" if allowed == "never" else " from other machines"
            return _no(f"credentials are needed here{where} ({rule}anonymous = {allowed!r})")
        return LOCAL_OPERATOR if loopback and not self._users else ANONYMOUS

    def _queue(self, credentials: Credentials, then: Then) -> None:
        username, password = credentials.username, credentials.password
        assert username is not None
        assert password is not None
        if self._waiting_count >= self._settings.waiting_max:
            self._tell(Refusal(Reason.BUSY, "too many logins wait to be checked", RETRY_MS), then)
            return
        self._waiting_count += 1
        key = self._key(username, password)
        entries = self._waiting.setdefault(key, [])
        entries.append((credentials, then))
        if len(entries) > 1:
            return
        user = self._users.get(username)
        known = user.password if user is not None else None
        self._threads.submit(self._hash, key, entries, user if known else None, known or _NOBODY, password)

    def _hash(
        self,
        key: bytes,
        entries: list[tuple[Credentials, Then]],
        user: _User | None,
        known: ScryptHash,
        password: bytes,
    ) -> None:
        fits = known.fits(password) and user is not None
        # The loop may be closed by now; then nobody is left to tell.
        if not self._closed:
            self._loop.call_soon_threadsafe(self._hashed, key, entries, user if fits else None)

    def _hashed(self, key: bytes, entries: list[tuple[Credentials, Then]], user: _User | None) -> None:
        if self._waiting.get(key) is not entries:
            return  # the users changed or the mesh stops: those who waited have been seen to
        del self._waiting[key]
        self._waiting_count -= len(entries)
        outcome: Outcome
        if user is not None:
            outcome = _remember(self._accepted, key, user.principal, self._settings.remembered_max)
        else:
            refusal = _no(WRONG)
            outcome = _remember(self._refused, key, refusal, self._settings.remembered_max)
        for _, then in entries:
            self._tell(outcome, then)

    def _tell(self, outcome: Outcome, then: Then) -> None:
        then(self.told(outcome))

    def told(self, outcome: Outcome) -> Outcome:
        """The end of a login, counted: who is banned does not come in by it."""
        if self._bans is not None and isinstance(outcome, Principal):
            outcome = self._bans.principal(outcome.name) or outcome
        if isinstance(outcome, Refusal):
            self._metrics.logins_failed += 1
        else:
            self._metrics.logins += 1
        return outcome

    def _key(self, username: str, password: bytes) -> bytes:
        name = username.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(
            len(name).to_bytes(4, "big") + name + password, key=self._secret, digest_size=32
        ).digest()


def _remember(cache: dict[bytes, T], key: bytes, value: T, most: int) -> T:
    if len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value
    return value


def _no(why: str) -> Refusal:
    return Refusal(Reason.NOT_AUTHENTICATED, why)


_STRICT: Final = ("always", "loopback", "never")


def _lost(old: LoginSettings, new: LoginSettings) -> frozenset[str]:
    """The principals some of whose sessions came in by what no longer holds.

    Not told apart: the sessions of a user who logs in by several things, of which one was taken away.
    """
    before = {user.name: user for user in old.users}
    now = {user.name: user for user in new.users}
    lost = {name for name, user in before.items() if name not in now or _proofs(user) - _proofs(now[name])}
    for name, user in now.items():
        # Until now its name, or what its certificates say, may have been those of somebody nobody had listed.
        known = _proofs(before[name]) if name in before else set[str]()
        lost.update(text.partition(":")[2] for text in user.certificates if text not in known)
        if name not in before:
            lost.add(name)
    if (new.users and not old.users) or _STRICT.index(new.anonymous) > _STRICT.index(old.anonymous):
        lost.add(ANONYMOUS.name)
    return frozenset(lost)


def _proofs(user: UserSettings) -> set[str]:
    return {user.password, user.scram, *user.tokens, *user.certificates} - {""}


def _user(settings: UserSettings, principal: Principal) -> _User:
    principal.groups, principal.agents = frozenset(settings.groups), frozenset(settings.agents)
    principal.admin = settings.admin
    password = parse_password(settings.password) if settings.password else None
    assert password is not None or not settings.password, "the configuration was checked"
    scram = parse_verifier(settings.scram) if settings.scram else None
    assert scram is not None or not settings.scram, "the configuration was checked"
    return _User(principal, password, frozenset(settings.tokens), scram)
