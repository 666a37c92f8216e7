"""What users install: a wheel built from the sdist, put into an empty environment, started there."""

from __future__ import annotations

import shutil
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.clients.mesh import MeshProcess
from tests.clients.processes import run_client
from tests.house.sources import ROOMS, ROOT, project

LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", ".clients", ".*_cache", ".hypothesis", "node_modules", "build", "dist", "*.egg-info", "__pycache__"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over in the checkout can slip in or be left there."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=LEFT_BEHIND)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source"]
    run_client(build, timeout_s=180)
    (found,) = (folder / "dist").glob("dragoman-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_carries_the_rooms_as_real_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {entry.filename: entry for entry in archive.infolist()}
    ours = {s.path if s.room == "dragoman" else f"dragoman/{s.path}" for s in project().values() if s.room in ROOMS}
    missing = ours - carried.keys()
    assert not missing
    assert "dragoman/py.typed" in carried
    assert any(name.endswith("licenses/LICENSE") for name in carried)
    foreign = {name.partition("/")[0] for name in carried if ".dist-info/" not in name}
    assert foreign == {"dragoman"}
    links = [name for name, entry in carried.items() if (entry.external_attr >> 16) & 0o170000 == 0o120000]
    assert not links


@pytest.mark.slow
def test_the_wheel_starts_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run_client([sys.executable, "-m", "venv", tmp_path / "venv"], timeout_s=120)
    python = tmp_path / "venv" / "bin" / "python"
    run_client([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], timeout_s=400)

    version = run_client([python.parent / "dragoman", "version"], cwd=tmp_path)
    assert wheel.name.split("-")[1] in version.stdout

    with MeshProcess(tmp_path / "mesh", python=str(python)) as mesh:
        with urllib.request.urlopen(f"{mesh.url}/healthz", timeout=10) as answer:
            assert answer.status == 200
        assert mesh.port("mqtt") > 0
        ended = mesh.terminate()
    assert ended.code == 0, ended.stderr
    assert "Traceback" not in ended.stderr
