"""Codes on the command line, as an operator and support use it."""

from __future__ import annotations

import json
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.test_cli import vouchsafe
from tests.service import Service


@pytest.fixture
def campaign(service: Service) -> str:
    """A campaign without codes."""
    name = f"cli-{uuid.uuid4()}"
    created = vouchsafe("campaign", "create", name, "--percent", "10", "--target", service.target)
    assert created.returncode == 0, created.stderr
    return name


def test_codes_are_generated_exported_and_imported(service: Service, campaign: str, tmp_path: Path) -> None:
    target = ("--target", service.target)
    made = vouchsafe("codes", "generate", "--campaign", campaign, "--count", "1000", "--prefix", "xmas-", *target)
    assert made.stdout.startswith(f"succeeded: 1,000 of 1,000 codes XMAS-############ for {campaign}; one guess in ")
    listed = vouchsafe("codes", "operations", "--campaign", campaign, *target)
    assert listed.stdout == made.stdout
    short = vouchsafe("codes", "generate", "--campaign", campaign, "--count", "1000", "--length", "4", *target)
    assert (short.returncode, "give a length of 7 or more" in short.stderr) == (1, True)

    file = tmp_path / "codes.csv"
    assert vouchsafe("codes", "export", "--campaign", campaign, "--file", str(file), *target).returncode == 0
    lines = file.read_text().splitlines()
    assert len(lines) == 1_001
    file.write_text("\n".join(["code", lines[1].split(",")[0], f"{campaign}-new"]))
    imported = vouchsafe("codes", "import", str(file), "--campaign", campaign, *target)
    assert (imported.returncode, imported.stdout) == (1, "imported 1 codes; bad lines: 1\n")
    assert imported.stderr == "  line 2: code: exists already\n"
    shown = json.loads(vouchsafe("codes", "list", "--campaign", campaign, "--limit", "3", "--json", *target).stdout)
    assert [code["code"] for code in shown] == sorted(code["code"] for code in shown)
    assert len(shown) == 3


def test_support_makes_gives_and_stops_a_code(service: Service, campaign: str, tmp_path: Path) -> None:
    target, picture = ("--target", service.target), tmp_path / "code.svg"
    gift = ("codes", "gift", "--campaign", campaign, "--customer", "c-42", "--request-id", campaign, *target)
    given = vouchsafe(*gift, "--valid-for", "14d", "--qr", str(picture))
    assert given.returncode == 0, given.stderr
    code = given.stdout.strip()
    assert len(code) == 12
    assert vouchsafe(*gift).stdout.strip() == code
    drawn = ET.fromstring(picture.read_text())  # noqa: S314  # our own
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    shown = json.loads(vouchsafe("codes", "get", code, "--json", *target).stdout)
    assert (shown["customer_id"], shown["state"], shown["used_count"]) == ("c-42", "CODE_STATE_ASSIGNED", "0")
    again = vouchsafe("codes", "assign", code, "--customer", "c-43", *target)
    assert (again.returncode, "given to another customer" in again.stderr) == (1, True)

    assert "disabled" in vouchsafe("codes", "disable", code, "--reason", "leaked", *target).stdout
    refused = vouchsafe("redeem", code, "--customer", "c-42", *target)
    assert (refused.returncode, refused.stdout.split()[1]) == (3, "CODE_DISABLED")
    assert "assigned" in vouchsafe("codes", "enable", code, *target).stdout
    assert vouchsafe("redeem", code, "--customer", "c-42", *target).returncode == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("gift", "--campaign", "c", "--customer", "c", "--qr", "code.png"), "has to end with .svg"),
        (("gift", "--campaign", "c", "--customer", "c", "--valid-for", "soon"), "give a duration such as 90s"),
        (("list", "--state", "gone"), "available, assigned, disabled"),
    ],
    ids=["picture", "span", "state"],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(args: tuple[str, ...], told: str) -> None:
    ran = vouchsafe("codes", *args)
    assert ran.returncode == 2
    assert told in ran.stderr.replace("\n", " ").replace("│ ", "").replace("  ", " ")
