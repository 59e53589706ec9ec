"""`make ghz`: one worker under ghz, a generator that shares no code with ours, as `benchmarks/ghz.json` says.

Fails when ghz does, when the audit finds something, and when ghz is not installed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.audits import audited
from benchmarks.processes import ROOT, ended_plainly
from benchmarks.service import Service

CONFIG = Path(__file__).with_name("ghz.json")
NOT_THERE = (
    "ghz: there is no ghz on the path; install it from https://ghz.sh, or with "
    "`go install github.com/bojand/ghz/cmd/ghz@v0.121.0`; `make load` and `make bench` need nothing else"
)


def main() -> None:
    """Starts everything, runs ghz, counts, stops everything."""
    ghz = shutil.which("ghz")
    if ghz is None:
        sys.exit(NOT_THERE)
    with ended_plainly("ghz"), tempfile.TemporaryDirectory(prefix="vouchsafe-ghz-") as directory:
        # In a file: what stands in a command, everybody on the machine can read.
        metadata = Path(directory) / "metadata.json"
        with Service(Path(directory) / "service", workers=1) as service:
            metadata.touch(mode=0o600)
            metadata.write_text(json.dumps({"authorization": f"Bearer {service.api_key}"}))
            service.create_campaign()
            command = [ghz, "--config", str(CONFIG), "--metadata-file", str(metadata), service.target]
            status = subprocess.run(command, check=False, cwd=ROOT).returncode
            agrees = asyncio.run(audited(service))
    if not agrees:
        sys.exit("ghz: gate and ledger do not agree")
    sys.exit(status)


if __name__ == "__main__":
    main()
