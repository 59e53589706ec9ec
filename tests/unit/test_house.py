"""The habits of this project that no other tool checks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
LUA_FILES = sorted((ROOT / "src/vouchsafe/gate/functions").glob("*.lua"))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_gives_hashes_for_every_requirement_and_no_addresses(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.findall(r"^\s*--(?!hash=)", text, re.MULTILINE), (
        "an option of pip, such as an index, stands in a lock"
    )

    requirements = [line for line in text.replace("\\\n", "").splitlines() if line[:1].isalnum()]
    assert requirements
    for requirement in requirements:
        assert re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", requirement)


def test_what_the_server_runs_on_is_what_was_tested() -> None:
    runtime, tested = map(_pins, LOCKS)
    assert runtime
    assert runtime <= tested


def _pins(name: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==\S+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", LUA_FILES, ids=lambda path: path.stem)
def test_a_lua_file_opens_with_its_contract(path: Path) -> None:
    header = re.match(r"(?:--.*\n)*", path.read_text(encoding="utf-8"))
    assert header
    assert re.findall(r"^-- (\w+): ", header[0], re.MULTILINE) == ["Purpose", "KEYS", "ARGV", "Returns", "Writes"]


def test_there_is_lua() -> None:
    assert LUA_FILES


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared = re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE)
    listed = subprocess.check_output(["make", "--no-print-directory"], cwd=ROOT, text=True).splitlines()

    assert [line.split()[0] for line in listed] == targets
    assert sorted(" ".join(declared).split()) == sorted(targets)
    assert all(len(line.split()) > 1 for line in listed), "a target without its line"
