"""`make load`: locust on a service of its own. Fails when a call failed, or the audit finds something."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.audits import audited
from benchmarks.message import FLASH, GOOD, OPERATED, PAUSED
from benchmarks.processes import ROOT, ended_plainly
from vouchsafe.client import CampaignDefinition, Effect, Limits, PercentOff
from vouchsafe.embedded import HOST, free_port, launched
from vouchsafe.local import LocalService

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
RESULTS = ROOT / "benchmarks" / "results"
USERS = 100
CAP = 500
STOP_WAIT_S = 10


@dataclass(frozen=True)
class Scenario:
    """Who comes, by the classes of the locustfile, and how long they may wait for the worker: it is not overloaded when
    this machine, with locust and everything on it, is slow for a moment."""

    users: Sequence[str]
    max_wait_ms: int = 5_000


SCENARIOS = {
    "sale": Scenario(("FlashSale", "SteadyTrade")),
    "flash": Scenario(("FlashSale",)),
    "steady": Scenario(("SteadyTrade",)),
    # Locust makes no more calls than a worker answers, so in this one nobody may wait.
    "storm": Scenario(("RetryStorm",), max_wait_ms=10),
    "operators": Scenario(("SteadyTrade", "Operator")),
}


async def prepare(service: LocalService) -> None:
    """Creates the campaigns that the shoppers know."""
    async with service.client(channels=1) as client:
        for code, cap in ((FLASH, CAP), (GOOD, None), (PAUSED, None), (OPERATED.upper(), None)):
            definition = CampaignDefinition(
                display_name=code,
                effects=[Effect(percent_off=PercentOff(basis_points=1_000))],
                limits=Limits(total=cap),
            )
            await client.create_campaign(code.lower(), definition, shared_codes=[code])
        await client.pause_campaign(PAUSED.lower(), "for the load test")


async def sold(service: LocalService) -> int:
    """How many vouchers of the flash sale are gone."""
    async with service.client(channels=1) as client:
        return (await client.get_campaign(FLASH.lower())).redeemed_count


def locust(service: LocalService, name: str, how: Sequence[str], timeout_s: int | None) -> int:
    """Runs the scenario, and writes its report; 0 when every call was answered as it should be. Ctrl-C ends it."""
    RESULTS.mkdir(exist_ok=True)
    options = {
        "locustfile": LOCUSTFILE,
        "host": service.target,
        "users": USERS,
        "spawn-rate": USERS,
        "stop-timeout": STOP_WAIT_S,
        "loglevel": "WARNING",
        "html": RESULTS / f"load-{name}.html",
        "csv": RESULTS / f"load-{name}",
    }
    words = [f"--{option}={value}" for option, value in options.items()]
    command = launched([sys.executable, "-m", "locust", *how, *words, *SCENARIOS[name].users])
    environment = os.environ | {"VOUCHSAFE_API_KEY": service.api_key}
    # Ctrl-C reaches only this process, which then stops everything in order.
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        try:
            return process.wait(timeout_s)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            return process.wait(2 * STOP_WAIT_S)
        finally:
            process.kill()


def headless(service: LocalService, name: str, seconds: int, console: Console) -> int:
    """For so long, and ends."""
    console.print(f"{USERS} users come for {seconds} s: {', '.join(SCENARIOS[name].users)} ...")
    return locust(service, name, ("--headless", "--only-summary", f"--run-time={seconds}"), seconds + 6 * STOP_WAIT_S)


def on_a_page(service: LocalService, name: str, console: Console) -> int:
    """Until Ctrl-C, with locust's page to look at, and to change how many come."""
    port = free_port()
    console.print(f"look at http://{HOST}:{port}; Ctrl-C ends it")
    return locust(service, name, (f"--web-host={HOST}", f"--web-port={port}", "--autostart"), None)


def main() -> None:
    """Starts everything, lets the users in, counts, stops everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--scenario", choices=SCENARIOS, default="sale", help="who comes (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="how long they stay (default %(default)s)")
    parser.add_argument("--web", action="store_true", help="with locust's page, until Ctrl-C")
    options = parser.parse_args()
    name: str = options.scenario
    os.environ["VOUCHSAFE_MAX_WAIT_MS"] = str(SCENARIOS[name].max_wait_ms)
    console = Console(highlight=False, soft_wrap=True)
    with ended_plainly("load"), tempfile.TemporaryDirectory(prefix="vouchsafe-load-") as directory:
        console.print("starting Valkey, PostgreSQL, the persister and a server with one worker ...")
        with LocalService(Path(directory), workers=1) as service:
            asyncio.run(prepare(service))
            if options.web:
                status = on_a_page(service, name, console)
            else:
                status = headless(service, name, options.seconds, console)
            gone = asyncio.run(sold(service))
            agrees = asyncio.run(audited(service))
    console.print(f"flash sale: {gone} of {CAP} vouchers are gone; the report is in {RESULTS.relative_to(ROOT)}")
    if gone > CAP:
        sys.exit("load: the flash sale was oversold")
    if not agrees:
        sys.exit("load: gate and ledger do not agree")
    sys.exit(status)


if __name__ == "__main__":
    main()
