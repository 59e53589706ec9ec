"""`make load`: locust's shoppers on a service of their own, for a bounded time. Fails when a call failed."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.message import FLASH, GOOD, PAUSED
from benchmarks.processes import ROOT, stop_on_signals
from vouchsafe.client import CampaignDefinition, Effect, Limits, PercentOff
from vouchsafe.domain.errors import VouchsafeError
from vouchsafe.embedded import launched
from vouchsafe.local import LocalService

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
USERS = 100
CAP = 500
STOP_WAIT_S = 10


async def prepare(service: LocalService) -> None:
    """Creates the campaigns that the shoppers know."""
    async with service.client(channels=1) as client:
        for code, cap in ((FLASH, CAP), (GOOD, None), (PAUSED, None)):
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


def locust(service: LocalService, seconds: int) -> int:
    """Runs the shoppers; 0 when every call was answered as it should be."""
    options = {
        "locustfile": LOCUSTFILE,
        "host": service.target,
        "users": USERS,
        "spawn-rate": USERS,
        "run-time": seconds,
        "stop-timeout": STOP_WAIT_S,
        "loglevel": "WARNING",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = launched([sys.executable, "-m", "locust", "--headless", "--only-summary", *words])
    environment = os.environ | {"VOUCHSAFE_API_KEY": service.api_key}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, timeout=seconds + 6 * STOP_WAIT_S).returncode


def main() -> None:
    """Starts everything, lets the shoppers in, counts, stops everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="how long the shoppers stay (%(default)s)")
    seconds = parser.parse_args().seconds
    stop_on_signals()
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="vouchsafe-load-") as directory:
            console.print("starting Valkey, PostgreSQL, the persister and a server with one worker ...")
            with LocalService(Path(directory), workers=1) as service:
                asyncio.run(prepare(service))
                console.print(f"{USERS} shoppers come for {seconds} s ...")
                status = locust(service, seconds)
                gone = asyncio.run(sold(service))
    except VouchsafeError as error:
        sys.exit(f"load: {error}")
    except KeyboardInterrupt:
        sys.exit("load: stopped")
    console.print(f"flash sale: {gone} of {CAP} vouchers are gone")
    if gone > CAP:
        sys.exit("load: the flash sale was oversold")
    sys.exit(status)


if __name__ == "__main__":
    main()
