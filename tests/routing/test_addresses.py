from __future__ import annotations

import pytest

from dragoman.routing.addresses import address_block, is_loopback


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("localhost.evil.example", False),
    ],
)
def test_what_counts_as_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_one_owner_usually_has_an_ipv4_address_or_a_64() -> None:
    assert address_block("2001:db8::1") == address_block("2001:db8::ffff:1") != address_block("2001:db8:0:1::1")
    assert address_block("10.0.0.1") == address_block("::ffff:10.0.0.1") != address_block("10.0.0.2")
