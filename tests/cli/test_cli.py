"""The command line, as an operator uses it: against a running service, by exit status and output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.service import Service
from vouchsafe.cli.words import CAPS
from vouchsafe.client import DiscountCap
from vouchsafe.embedded import EmbeddedValkey, free_port
from vouchsafe.local import KEY_FILE
from vouchsafe.settings import Settings

WAIT_S = 60.0


def vouchsafe(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vouchsafe", *args],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_every_cap_has_words() -> None:
    assert set(CAPS) == {name.removeprefix("DISCOUNT_CAP_") for name, number in DiscountCap.items() if number}


def test_what_is_held_is_confirmed_and_taken_back(service: Service) -> None:
    target, code = ("--target", service.target), f"cli-{uuid.uuid4()}"
    assert vouchsafe("campaign", "create", code, "--percent", "10", "--code", code, *target).returncode == 0
    held = vouchsafe("redeem", code, "--hold", "15m", "--order", code, *target).stdout
    assert held.startswith("held: 5.00 EUR off 50.00 EUR  until 20")
    reservation = held.split("reservation ")[1].split()[0]
    confirmed = vouchsafe("confirm", reservation, *target).stdout
    assert confirmed.startswith("redeemed: 5.00 EUR off 50.00 EUR  redemption r")
    refused = vouchsafe("release", reservation, *target)
    assert (refused.returncode, refused.stdout.split()[1]) == (3, "RESERVATION_CONFIRMED")
    redemption = confirmed.split("redemption ")[1].split()[0]
    part = vouchsafe("rollback", redemption, "--amount", "0=200", "--reason", "late", "--json", *target)
    assert (json.loads(part.stdout)["left_minor"], json.loads(part.stdout)["reason"]) == ("300", "late")
    rest = vouchsafe("rollback", redemption, "--units", "0=1", *target).stdout
    assert rest.startswith("rolled back: 3.00 EUR, 0.00 EUR left  rollback r")
    assert "came back" in rest
    gone = vouchsafe("rollback", redemption, *target)
    assert (gone.returncode, gone.stdout.split()[1]) == (3, "ALREADY_ROLLED_BACK")
    again = vouchsafe("redeem", code, "--hold", "1m", *target).stdout.split("reservation ")[1].split()[0]
    assert vouchsafe("release", again, *target).stdout.startswith("released: 5.00 EUR off 50.00 EUR  order")


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (("rollback", "r00-1-1700000000000-0", "--units", "one"), 2, "--units one: give the line and a number"),
        (("rollback", "r00-1-1700000000000-0", "--amount", "0=-1"), 2, "--amount 0=-1: give the line and a number"),
        (("rollback", "r00-1-1700000000000-0"), 1, "NOT_FOUND"),
        (("confirm", "nothing"), 1, "reservation_id: "),
        (("redeem", "CODE", "--hold", "soon"), 2, "--hold: "),
        (("redeem", "CODE", "--hold", "2d"), 1, "ttl: "),
    ],
)
def test_a_slip_about_payments_is_told(service: Service, args: tuple[str, ...], status: int, words: str) -> None:
    ran = vouchsafe(*args, "--target", service.target)
    assert (ran.returncode, ran.stdout) == (status, "")
    assert words in ran.stderr


def test_a_quote_is_redeemed_beyond_the_limit_and_a_cut_is_explained(service: Service, tmp_path: Path) -> None:
    target, id_ = ("--target", service.target), f"cli-{uuid.uuid4()}"
    file = tmp_path / "campaign.yaml"
    file.write_text(
        f"""
        campaign: {id_}
        definition:
          display_name: The last cent
          currency_code: EUR
          effects: [{{percent_off: {{basis_points: 1000}}}}]
          limits:
            budget_minor: 500
            partial_budget: true
            honour_quoted: {{within: 15m, overdraft_minor: 200}}
        codes: {{shared: [{id_}]}}
        """
    )
    applied = vouchsafe("campaign", "apply", str(file), *target)
    assert applied.returncode == 0, applied.stderr
    offered = vouchsafe("redeem", id_, "--order", f"{id_}-1", "--dry-run", *target).stdout
    assert offered.startswith(f"would take 5.00 EUR off 50.00 EUR  order {id_}-1  quote ")
    token = offered.split("quote ")[1].strip()
    assert vouchsafe("redeem", id_, *target).stdout.startswith("redeemed: 5.00 EUR off 50.00 EUR")
    assert vouchsafe("redeem", id_, *target).stdout.startswith("refused: BUDGET_EXHAUSTED")
    wrong = vouchsafe("redeem", id_, "--quote", token, *target).stdout
    assert "quote=invalid" in wrong
    honoured = vouchsafe("redeem", id_, "--order", f"{id_}-1", "--quote", token, *target).stdout
    assert honoured.startswith("redeemed: 2.00 EUR off 50.00 EUR")
    assert "the rest of the budget, else 5.00 EUR" in honoured


def test_an_operator_runs_a_campaign(service: Service) -> None:
    target = ("--target", service.target)
    id_ = f"cli-{uuid.uuid4()}"
    code = id_.upper()

    created = vouchsafe(
        "campaign", "create", id_, "--percent", "12.5", "--code", code, "--limit", "10",
        "--limit-per-customer", "1", "--end", "2031-01-01T00:00:00+01:00", *target,
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    for shown in (id_, "active", "12.5 %", "10", "2030-12-31T23:00:00Z"):
        assert shown in created.stdout

    redeemed = vouchsafe("redeem", code, "--customer", "alice", "--amount", "1000", "--json", *target)
    assert redeemed.returncode == 0, redeemed.stderr
    assert json.loads(redeemed.stdout)["redemption"]["discount_minor"] == "125"
    refused = vouchsafe("redeem", code, "--customer", "alice", *target)
    assert refused.returncode == 3
    assert refused.stdout.startswith("refused: CUSTOMER_LIMIT_REACHED")
    assert "limit=1  used=1" in refused.stdout
    assert vouchsafe("redeem", code, "--customer", "bob", "--dry-run", *target).stdout.startswith(
        "would take 6.25 EUR off 50.00 EUR"
    )

    tried = vouchsafe("redeem", code, "--at", "2031-01-01T08:00:00+01:00", *target)
    assert tried.returncode == 3
    assert tried.stdout.startswith("trial: as if it were 2031-01-01 07:00:00 UTC; counters are those of now\nrefused: ")
    assert "CAMPAIGN_ENDED" in tried.stdout
    zoneless = vouchsafe("redeem", code, "--at", "2031-01-01T08:00", *target)
    assert zoneless.returncode == 2
    assert "--at" in zoneless.stderr
    assert "has no offset" in zoneless.stderr

    paused = vouchsafe("campaign", "pause", id_, "--reason", "stock is gone", *target)
    assert "paused" in paused.stdout
    assert "stock is gone" in paused.stdout
    tried = vouchsafe("redeem", code, "--customer", "bob", "--at", "2030-12-31T23:59:00+01:00", *target)
    assert tried.returncode == 0, tried.stderr
    assert f"note: campaign {id_} is not active now" in tried.stdout
    assert "would take 6.25 EUR off 50.00 EUR" in tried.stdout
    assert json.loads(vouchsafe("campaign", "get", id_, "--json", *target).stdout)["redeemed_count"] == "1"
    assert vouchsafe("redeem", code, "--customer", "bob", *target).stdout.startswith("refused: CAMPAIGN_PAUSED")
    assert "active" in vouchsafe("campaign", "resume", id_, *target).stdout
    listed = json.loads(vouchsafe("campaign", "list", "--json", *target).stdout)
    assert id_ in [campaign["id"] for campaign in listed]
    assert id_ in vouchsafe("campaign", "list", *target).stdout


def test_an_audit_that_agrees(service: Service) -> None:
    target, id_ = ("--target", service.target), f"cli-{uuid.uuid4()}"
    vouchsafe("campaign", "create", id_, "--percent", "10", "--code", id_, *target)
    assert vouchsafe("redeem", id_, *target).returncode == 0
    settings = service.settings
    stores = {"VOUCHSAFE_VALKEY_URL": settings.valkey_url, "VOUCHSAFE_POSTGRES_URL": settings.postgres_url}
    found = vouchsafe("audit", "--campaign", id_, **stores)
    assert found.returncode == 0, found.stderr
    # The use, its code, its customer and its money; nothing of the work is shown where nobody watches it.
    assert (found.stdout, found.stderr) == ("1 campaign, 4 counters, 1 event: all agree\n", "")
    found = vouchsafe("audit", "--json", **stores)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert (told["agrees"], told["differing"], told["closed"]) == (True, 0, [])
    assert told["campaigns"] >= 1
    assert told["counters_differ"] == told["rows_differ"] == []
    found = vouchsafe("audit", "--campaign", "nobody", **stores)
    assert (found.returncode, found.stdout) == (1, "")
    assert "there is no campaign nobody" in found.stderr


@contextmanager
def watching(id_: str, *args: str) -> Iterator[IO[str]]:
    """What `campaign watch` prints; left, it is interrupted and has to end well."""
    running = subprocess.Popen(
        [sys.executable, "-m", "vouchsafe", "campaign", "watch", id_, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        yield running.stdout
        running.send_signal(signal.SIGINT)
        _, complaints = running.communicate(timeout=WAIT_S)
        assert (running.returncode, complaints) == (0, "")
    finally:
        running.kill()
        running.communicate()


def test_watching_follows_until_it_is_interrupted(service: Service) -> None:
    id_, target = f"cli-{uuid.uuid4()}", ("--target", service.target)
    vouchsafe("campaign", "create", id_, "--amount", "500", "--code", id_, *target)
    with watching(id_, "--json", *target) as objects, watching(id_, *target) as lines:
        assert json.loads(objects.readline())["gate"]["redeemed_count"] == "0"
        heading, first = lines.readline(), lines.readline()
        vouchsafe("redeem", id_, *target)
        while json.loads(objects.readline())["ledger"]["redeemed_count"] != "1":
            pass
        while (line := lines.readline()).split()[-1] != "1":
            pass
    assert heading.split("  ")[0] == "as of"
    assert first.split()[1:] == ["active", "0", "0", "0", "0"]
    assert line.split()[1:] == ["active", "1", "500", "1", "1"]
    assert len({len(printed) for printed in (heading, first, line)}) == 1


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("campaign", "create", "x", "--percent", "12.345", "--code", "ABC"), 2, "at most two decimals"),
        (("campaign", "create", "x", "--percent", "a lot", "--code", "ABC"), 2, "not a number"),
        (("campaign", "create", "x", "--code", "ABC"), 2, "one of --percent and --amount"),
        (("campaign", "create", "x", "--percent", "1", "--start", "2031-01-01"), 2, "has no offset"),
        (("campaign", "create", "x", "--percent", "1", "--start", "soon"), 2, "not an ISO 8601 time"),
        (("campaign", "create", "NOT-AN-ID", "--percent", "1", "--code", "ABC"), 1, "campaign_id: "),
        (("campaign", "get", "nobody"), 1, "NOT_FOUND: there is no campaign nobody"),
        (("campaign", "watch", "nobody"), 1, "NOT_FOUND: there is no campaign nobody"),
        (("redeem", "AB"), 1, "codes[0]: "),
        (("redeem", "WELCOME", "--amount", "-1"), 2, "--amount"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_a_mistake_is_told_and_counted(service: Service, args: tuple[str, ...], status: int, said: str) -> None:
    target = () if args == ("nonsense",) else ("--target", service.target)
    ran = vouchsafe(*args, *target, COLUMNS="200")
    assert ran.returncode == status
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("args", "next_step"),
    [
        (("campaign", "pause", "no-such"), "`vouchsafe campaign list --archived` shows all that there are"),
        (("campaign", "pause", "--label", "no-such"), "`vouchsafe campaign list` shows the labels of each"),
        (("campaign", "cancel-change", "999999999"), "`vouchsafe campaign changes` shows all, with their numbers"),
        (("codes", "get", "NO-SUCH"), "`vouchsafe codes list --campaign ID` shows those of a campaign"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_told_with_where_to_look(service: Service, args: tuple[str, ...], next_step: str) -> None:
    ran = vouchsafe(*args, "--target", service.target)
    assert (ran.returncode, ran.stderr.splitlines()[1:]) == (1, [f"  {next_step}"]), ran.stderr


def test_a_server_that_is_not_there_is_told_with_what_to_do() -> None:
    ran = vouchsafe("redeem", "WELCOME", "--target", f"127.0.0.1:{free_port()}")
    assert ran.returncode == 1
    assert "`vouchsafe dev` starts one" in ran.stderr


def test_settings_are_all_listed_and_passwords_masked() -> None:
    url = "postgresql://user:secret@host/db"
    shown = vouchsafe("settings", "--json", VOUCHSAFE_POSTGRES_URL=url)
    assert shown.returncode == 0
    assert "secret" not in shown.stdout
    rows = {row["variable"]: row for row in json.loads(shown.stdout)}
    assert set(rows) == {f"VOUCHSAFE_{name.upper()}" for name in Settings.model_fields}
    assert rows["VOUCHSAFE_POSTGRES_URL"]["value"] == "postgresql://user:***@host/db"
    text = vouchsafe("settings", VOUCHSAFE_POSTGRES_URL=url).stdout
    assert all(f"{variable}=" in text for variable in rows)
    assert "secret" not in text

    wrong = vouchsafe("settings", VOUCHSAFE_PORT="many")
    assert wrong.returncode == 2
    assert "VOUCHSAFE_PORT" in wrong.stderr


def test_dev_prints_a_line_that_redeems_and_leaves_nothing(tmp_path: Path) -> None:
    # Not dev's: it has to survive.
    with EmbeddedValkey(tmp_path / "unrelated", free_port()) as unrelated:
        port = free_port()
        log = tmp_path / "dev.log"
        with log.open("w") as output:
            dev = subprocess.Popen(
                [sys.executable, "-m", "vouchsafe", "dev", "--ephemeral", "--port", str(port)],
                stdout=output,
                stderr=output,
                cwd=tmp_path,
            )
        try:
            deadline = time.monotonic() + WAIT_S
            while "Ctrl-C stops everything" not in log.read_text():
                assert dev.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            said = log.read_text().splitlines()
            line = said[said.index("ready; redeem a code with") + 1].strip()
            copied = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
            assert copied.returncode == 0, copied.stderr
            assert copied.stdout.startswith("redeemed: 5.00 EUR off 50.00 EUR")
            (data,) = [Path(text.split()[-1]) for text in said if "data and logs" in text]
            assert data.is_dir()

            # The key that the line has is dev's own; without it nobody is let in.
            bare = line.split(" ", 1)[1]
            assert line.startswith("VOUCHSAFE_API_KEY=vs_")
            refused = subprocess.run(bare, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
            assert "UNAUTHENTICATED" in refused.stderr
            # Nor is it needed where dev keeps it at the usual place, for a server on this machine.
            kept = tmp_path / "unrelated" / ".vouchsafe"
            kept.mkdir()
            (kept / KEY_FILE).write_text((data / KEY_FILE).read_text())
            assert (data / KEY_FILE).stat().st_mode & 0o777 == 0o600
            command = [sys.executable, "-m", "vouchsafe", "redeem", "WELCOME", "--target", f"localhost:{port}"]
            found = subprocess.run(command, cwd=kept.parent, capture_output=True, text=True, check=False)
            assert found.stdout.startswith("redeemed: "), found.stderr

            second = vouchsafe("dev", "--ephemeral", "--port", str(port))
            assert second.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        finally:
            dev.send_signal(signal.SIGINT)
            status = dev.wait(WAIT_S)
        assert status == 0
        assert log.read_text().splitlines()[-1] == "stopped"
        assert not data.exists()
        left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("unrelated")}
        assert left == {"dev.log"}
        os.kill(unrelated.pid, 0)


def test_support_sees_what_was_looked_at_and_what_each_line_gets(service: Service, tmp_path: Path) -> None:
    id_, target = f"cli-{uuid.uuid4()}", ("--target", service.target)
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text(
        f"""
        campaign: {id_}
        definition:
          display_name: Boots
          currency_code: EUR
          effects:
            - percent_off: {{basis_points: 2000, target: {{kind: EACH_LINE, lines: {{categories: [shoes]}}}}}}
              max_amount_per_line_minor: 900
            - free_shipping: {{}}
          conditions:
            - countries: {{any: [DE]}}
          stacking: {{mode: JOINT}}
        codes: {{shared: [{id_}-A]}}
        """
    )
    vouchsafe("campaign", "apply", str(campaign), *target)
    vouchsafe("campaign", "create", f"{id_}-b", "--percent", "10", "--code", f"{id_}-B", *target)
    order = tmp_path / "order.yaml"
    order.write_text(
        """
        customer: {country_code: DE}
        order:
          shipping_minor: 490
          lines:
            - {sku: boot, quantity: 1, unit_price_minor: 6000, categories: [shoes]}
            - {sku: lace, quantity: 2, unit_price_minor: 150}
        """
    )
    explained = vouchsafe("redeem", f"{id_}-A", "--file", str(order), "--explain", *target)
    assert f"campaign {id_}, version 1" in explained.stdout
    assert "conditions[0].countries" in explained.stdout
    assert "would take 13.90 EUR off 63.00 EUR" in explained.stdout
    assert "the effect gives no more a line, else 12.00 EUR" in explained.stdout
    unknown = vouchsafe("redeem", f"{id_}-A", "--explain", *target)
    assert unknown.returncode == 3
    assert "customer.country_code was not sent" in unknown.stdout

    several = vouchsafe(
        "redeem", f"{id_}-A", f"{id_}-B", "NOBODY", "--file", str(order), "--part", "--best-deal", *target
    )
    assert several.stdout.startswith("redeemed: 20.20 EUR off 63.00 EUR")
    assert "the best deal" in several.stdout
    assert "left out: NOBODY  CODE_UNKNOWN" in several.stdout

    order.write_text("customer: {county_code: DE}\norder: [1]\n")
    flawed = vouchsafe("redeem", f"{id_}-A", "--file", str(order), *target)
    assert flawed.returncode == 2
    assert "customer.county_code: is not known" in flawed.stderr
    assert "order: is [" in flawed.stderr or "order: " in flawed.stderr
