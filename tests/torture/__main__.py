"""`make torture`: load and random faults on a real service, everything held against what was told.

The seed that is printed makes the same faults in the same order again; when exactly they meet which call is chance.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import get_args

from tests.torture.faults import BY_NAME, faults_of
from tests.torture.run import Run
from vouchsafe.settings import Acknowledge

SHOWN = 40
WORDS = {"one": "one Valkey", "pair": "a Valkey with a replica", "cluster": "a Valkey Cluster"}


def main() -> int:
    """0 when all that was promised was kept."""
    options = _options()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    stores = "cluster" if options.cluster else "pair" if options.contract == "replica" else "one"
    faults = [BY_NAME[name] for name in options.faults.split(",")] if options.faults else faults_of(stores)
    # SIGTERM ends it as Ctrl-C does, and that even where a shell has turned it off: what was started is stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    data_dir = Path(tempfile.mkdtemp(prefix="vouchsafe-torture-"))
    print(f"seed {seed}, {options.minutes:g} minutes, contract {options.contract}, on {WORDS[stores]}")
    print(f"history and logs in {data_dir}", flush=True)
    run = Run(
        data_dir,
        seconds=options.minutes * 60,
        seed=seed,
        faults=faults,
        contract=options.contract,
        stores=stores,
        say=lambda text: print(text, flush=True),
    )
    report = asyncio.run(run.run())
    for line in report.lines():
        print(line)
    problems = report.findings.problems
    for problem in problems[:SHOWN]:
        print(f"PROBLEM: {problem}")
    if problems:
        print(f"{len(problems)} problems with seed {seed}; see {run.history_file} and the logs beside it")
        return 1
    shutil.rmtree(data_dir)
    print("all that was promised was kept")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long things go wrong")
    parser.add_argument("--seed", type=int, help="which faults in which order; by default by chance")
    contracts = get_args(Acknowledge)
    parser.add_argument("--contract", choices=contracts, default="gate", help="when a redemption is acknowledged")
    parser.add_argument("--cluster", action="store_true", help="on three primaries with a replica each")
    parser.add_argument("--faults", help=f"which, with commas between; of {', '.join(BY_NAME)}; by default all")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
