"""SCRAM-SHA-256 and OAUTHBEARER message by message: the RFCs' own examples, what is refused, and any bytes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapters.serving.oauthbearer import Bearer, parse_bearer
from dragoman.adapters.serving.saslprep import saslprep
from dragoman.adapters.serving.scram import (
    ScramServer,
    Verifier,
    decoy,
    parse_verifier,
    verifier_of,
    verifier_problem,
)
from dragoman.routing.refusals import Reason, Refusal
from tests.serving.sasl_clients import ScramClient, bearer

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = verifier_of(b"pencil", salt=SALT)
TEXT = str(PENCIL)
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


def server(*, nonce: str = "") -> ScramServer:
    return ScramServer(lambda name: PENCIL if name == "user" else decoy(name, b"k", PENCIL), nonce)


def challenged(client: ScramClient) -> tuple[ScramServer, bytes]:
    """A server that has answered the client's first message, and its answer."""
    made = server()
    challenge = made.step(client.first())
    assert isinstance(challenge, bytes), challenge
    return made, challenge


def is_no(said: object) -> bool:
    return isinstance(said, Refusal) and said.reason is Reason.NOT_AUTHENTICATED


# -- RFC 7677 ------------------------------------------------------------------------------------------


def test_the_example_of_rfc_7677() -> None:
    made = server(nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert made.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == CHALLENGE
    assert not made.proven
    assert made.step(FINAL) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert (made.proven, made.user) == (True, "user")


def test_a_client_of_ours_says_the_same_as_the_example() -> None:
    client = ScramClient("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    assert client.final(CHALLENGE) == FINAL
    assert client.trusts(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize("header", ["n,,", "y,,", "n,a=user,", "y,a=user,"])
def test_headers_that_need_nothing_of_us(header: str) -> None:
    client = ScramClient("user", "pencil", header=header)
    made, challenge = challenged(client)
    assert client.trusts(made.step(client.final(challenge)))


def test_unknown_extensions_are_passed_over() -> None:
    challenge = server(nonce="def").step(b"n,,n=user,r=abc,x=1,y=a=b")
    assert isinstance(challenge, bytes)
    assert challenge.startswith(b"r=abcdef,s=")


def test_extensions_of_the_final_message_are_signed_with_it() -> None:
    client = ScramClient("user", "pencil")
    made, challenge = challenged(client)
    assert client.trusts(made.step(client.final(challenge, more=",z=9")))


def test_every_login_has_another_nonce() -> None:
    client = ScramClient("user", "pencil")
    (_, one), (_, other) = challenged(client), challenged(client)
    assert one != other


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=user",
        b"n,,r=abc,n=user",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,n=user,r=\xc3\xa4",
        b"n,,n=,r=abc",
        b"n,,n==2,r=abc",
        b"n,,n=a=b,r=abc",
        b"n,,n=us\x00er,r=abc",
        b"n,,n=us\x07er,r=abc",
        b"n,,n=user,r=abc,",
        b"n,,n=user,r=abc,9=x",
        b"n,,n=user,r=abc,x",
        b"n,,n=\xff,r=abc",
        b"n,,m=must,n=user,r=abc",
        b"p=tls-unique,,n=user,r=abc",
        b"p=,,n=user,r=abc",
        b"x,,n=user,r=abc",
        b"n,a=,n=user,r=abc",
        b"n,a=other,n=user,r=abc",
        b"n,a=us=er,n=user,r=abc",
        b"n,user,n=user,r=abc",
        b"n,,n=" + b"u" * 4_096 + b",r=abc",
    ],
    ids=lambda first: repr(first[:30]),
)
def test_a_first_message_that_is_none(first: bytes) -> None:
    made = server()
    assert is_no(made.step(first))
    assert not made.proven


def test_channel_binding_is_refused_in_words() -> None:
    said = server().step(b"p=tls-exporter,,n=user,r=abc")
    assert isinstance(said, Refusal)
    assert "channel binding" in said.detail


def test_a_wrong_password_an_unknown_user_and_their_answers_are_alike() -> None:
    said = []
    for user, password in (("user", "pencils"), ("nobody", "pencil")):
        client = ScramClient(user, password)
        made, challenge = challenged(client)
        said.append(made.step(client.final(challenge)))
        assert not made.proven
    assert is_no(said[0])
    assert said[0] == said[1]


@pytest.mark.parametrize("nonce", ["", "fyko+d2lbbFgONRv9qkxdawL", "other"])
def test_another_nonce_than_ours(nonce: str) -> None:
    client = ScramClient("user", "pencil")
    made, challenge = challenged(client)
    assert is_no(made.step(client.final(challenge, nonce=nonce)))


def test_the_client_s_nonce_twice_as_old_librdkafka_has_it() -> None:
    client = ScramClient("user", "pencil", nonce="abc")
    made, challenge = challenged(client)
    both = challenge.decode().partition(",")[0].removeprefix("r=")
    assert client.trusts(made.step(client.final(challenge, nonce="abc" + both)))
    for before, after in (("xyz", ""), ("abcabc", ""), ("", "abc")):
        made, challenge = challenged(client)
        both = challenge.decode().partition(",")[0].removeprefix("r=")
        assert is_no(made.step(client.final(challenge, nonce=before + both + after)))


@pytest.mark.parametrize("header", ["y,,", "p=tls-unique,,", "n,a=other,", ""])
def test_another_header_than_before(header: str) -> None:
    client = ScramClient("user", "pencil")
    made, challenge = challenged(client)
    assert is_no(made.step(client.final(challenge, header=header)))


@pytest.mark.parametrize("proof", ["", "!!!!", "dHzb", "A" * 43, "A" * 44 + "=", "ä" * 44, "A" * 4_000, "A" * 5_000])
def test_a_proof_that_is_no_proof(proof: str) -> None:
    client = ScramClient("user", "pencil")
    made, challenge = challenged(client)
    said, _, _ = client.final(challenge).rpartition(b",p=")
    assert is_no(made.step(said + b",p=" + proof.encode()))


def test_a_final_message_without_its_parts() -> None:
    for part in (0, 1, 2):
        client = ScramClient("user", "pencil")
        made, challenge = challenged(client)
        parts = client.final(challenge).split(b",")
        del parts[part]
        assert is_no(made.step(b",".join(parts)))


def test_a_proof_of_another_login_is_none() -> None:
    client = ScramClient("user", "pencil")
    _, challenge = challenged(client)
    made, _ = challenged(client)
    assert is_no(made.step(client.final(challenge)))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_refusal(first: bytes, final: bytes) -> None:
    for prefix in (b"", b"n,,n=user,r=", b"n,a=", b"y,,n="):
        made = server()
        said = made.step(prefix + first)
        if isinstance(said, bytes):
            assert is_no(made.step(b"c=biws,r=" + final))
        assert not made.proven


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 400), st.integers(1, 255))
def test_a_flipped_bit_anywhere_in_the_proof_is_refused(at: int, flip: int) -> None:
    client = ScramClient("user", "pencil")
    made, challenge = challenged(client)
    final = bytearray(client.final(challenge))
    final[at % len(final)] ^= flip
    assert is_no(made.step(bytes(final)))


# -- what is kept ------------------------------------------------------------------------------------


def test_a_verifier_is_written_as_rfc_5803_has_it_and_read_again() -> None:
    assert TEXT.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert parse_verifier(TEXT) == PENCIL
    assert "pencil" not in TEXT
    assert verifier_of(b"pencil") != verifier_of(b"pencil"), "each has a salt of its own"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        TEXT + "x",
        TEXT.replace("SHA-256", "SHA-1"),
        TEXT.replace("$4096:", "$4095:"),
        TEXT.replace("$4096:", "$1000001:"),
        TEXT.replace("W22Z", "W22"),
        TEXT.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z"),
        TEXT.replace(":", "$", 1),
        TEXT[:-4],
        "SCRAM-SHA-256$4096:AAAAAAAAAAA=$=$=",
    ],
)
def test_what_is_no_verifier_is_not_repeated(text: str) -> None:
    problem = verifier_problem(text)
    assert problem is not None
    assert not text or text not in problem


@pytest.mark.parametrize("password", [b"", b"\xff", "\u00ad".encode(), b"a\x07b", "\u0627\u0031".encode()])
def test_a_password_that_scram_cannot_carry(password: bytes) -> None:
    with pytest.raises(ValueError, match=r"password|SASLprep"):
        verifier_of(password)


def test_a_decoy_stays_the_same_and_looks_like_the_others() -> None:
    like = Verifier(9_000, b"s" * 24, b"a" * 32, b"b" * 32)
    one = decoy("nobody", b"secret", like)
    assert one == decoy("nobody", b"secret", like)
    assert (one.iterations, len(one.salt), len(one.stored_key)) == (9_000, 24, 32)
    others = [decoy("nobodx", b"secret", like), decoy("nobody", b"secrets", like)]
    assert len({one.salt, one.stored_key, one.server_key, *(part for other in others for part in other[1:])}) == 9


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0644\u0627", "\u0627\u0644\u0627"),
        ("\U0001f511", "\U0001f511"),
        ("", ""),
    ],
)
def test_the_examples_of_rfc_4013(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\x7f", "\u0627\u0031", "\u0627a\u0627", "a\ud800", "\ue000", "\u200e"])
def test_what_rfc_4013_prohibits(text: str) -> None:
    with pytest.raises(ValueError, match="SASLprep"):
        saslprep(text)


def test_a_password_is_compared_in_its_prepared_form() -> None:
    assert verifier_of("\u2168".encode(), salt=SALT) == verifier_of(b"IX", salt=SALT)


# -- OAUTHBEARER -------------------------------------------------------------------------------------


def test_the_example_of_rfc_7628() -> None:
    said = (
        b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
        b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
    )
    assert parse_bearer(said) == Bearer("vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", "user@example.com")


def test_a_bearer_message_in_other_words() -> None:
    assert parse_bearer(bearer("abc")) == Bearer("abc", "")
    assert parse_bearer(b"y,,\x01auth=bEARER  abc\x01traceId=1\x01\x01") == Bearer("abc", "")
    assert parse_bearer(bearer("abc", acting_as="a=2Cb=3Dc")) == Bearer("abc", "a,b=c")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        b"\x01",
        b"n,,\x01\x01",
        b"n,,\x01auth=Bearer abc\x01",
        b"n,,auth=Bearer abc\x01\x01",
        b"n,,\x01auth=Bearer\x01\x01",
        b"n,,\x01auth=Bearer \x01\x01",
        b"n,,\x01auth=Basic abc\x01\x01",
        b"n,,\x01auth=Bearer a\xc3\xa4\x01\x01",
        b"n,,\x01auth=Bearer a b\x01\x01",
        b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
        b"n,,\x01host=x\x01\x01",
        b"p=tls-unique,,\x01auth=Bearer abc\x01\x01",
        b"x,,\x01auth=Bearer abc\x01\x01",
        b"\xff,,\x01auth=Bearer abc\x01\x01",
        bearer("a" * 16_384),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_bearer_message_that_is_none(data: bytes) -> None:
    said = parse_bearer(data)
    assert is_no(said)
    assert b"abc" not in str(said).encode(), "the token is not repeated"


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_bearer_message_or_a_refusal(data: bytes) -> None:
    for prefix in (b"", b"n,,\x01", b"n,a=", b"n,,\x01auth=Bearer "):
        said = parse_bearer(prefix + data)
        assert is_no(said) or isinstance(said, Bearer)
