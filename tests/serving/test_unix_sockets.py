"""Sockets that are files: made with their mode, taken over from the dead only, and gone afterwards."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from dragoman.adapters.serving.sockets import ListenError
from dragoman.adapters.serving.unix_sockets import UnixSocket, path_problem, unix_path


def test_it_listens_with_its_mode_and_goes_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    made = UnixSocket(str(path), 0o640, 8)
    found = path.lstat().st_mode
    assert stat.S_ISSOCK(found)
    assert stat.S_IMODE(found) == 0o640
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    made.close()
    assert not path.exists()
    made.close()


def test_what_a_dead_mesh_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    UnixSocket(str(path), 0o600, 8).close()
    assert not path.exists()


def test_what_another_program_listens_on_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = UnixSocket(str(path), 0o600, 1)
    with pytest.raises(ListenError, match="another program listens on"):
        UnixSocket(str(path), 0o600, 8)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    first.close()


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ListenError, match="is no socket"):
        UnixSocket(str(path), 0o600, 8)
    assert path.read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ListenError, match="is no socket"):
        UnixSocket(str(link), 0o600, 8)
    assert link.is_symlink()


def test_the_file_of_somebody_else_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    made = UnixSocket(str(path), 0o600, 8)
    os.unlink(path)
    path.write_text("another's")
    made.close()
    assert path.read_text() == "another's"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"folder of .* does not exist"):
        UnixSocket(str(tmp_path / "none" / "a.sock"), 0o600, 8)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_somebody_elses(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ListenError, match="may not make"):
        UnixSocket(str(tmp_path / "a.sock"), 0o600, 8)


def test_addresses() -> None:
    assert unix_path("unix:/run/a.sock") == "/run/a.sock"
    assert unix_path("127.0.0.1:1883") is None
    assert path_problem("/run/a.sock") is None
    assert "names no file" in str(path_problem(""))
    assert "names no file" in str(path_problem("/run/"))
    assert "at most 107 bytes, this one 108" in str(path_problem("/" + "é" * 53 + "x"))
