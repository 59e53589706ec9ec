"""Runs what the README shows, as it stands there, against `vouchsafe dev`. For `make readme-check`.

Console examples must end with status 0, or with 3 where the README shows a refusal; a redemption's id is whatever the
example before it answered. Python examples must run.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import IO

from tests.pages import examples

ROOT = Path(__file__).parents[1]
READY_S = 60
REDEMPTION_ID = re.compile(r"r\d\d-1-\d+-\d+")


def main() -> int:
    readme = (ROOT / "README.md").read_text()
    with tempfile.TemporaryFile("w+") as log:
        dev = subprocess.Popen([sys.executable, "-m", "vouchsafe", "dev", "--ephemeral"], stdout=log, cwd=ROOT)
        try:
            _wait_until_ready(dev, log)
            log.seek(0)
            os.environ["VOUCHSAFE_API_KEY"] = re.findall(r"vs_\S+", log.read())[0]
            failures = _run_console(readme) + _run_python(readme)
        finally:
            dev.terminate()
            dev.wait(30)
    print(f"{failures} of the README's examples failed" if failures else "every example of the README works")
    return 1 if failures else 0


def _wait_until_ready(dev: subprocess.Popen[bytes], log: IO[str]) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        log.seek(0)
        if "Ctrl-C stops everything" in log.read():
            return
        if dev.poll() is not None or time.monotonic() > deadline:
            sys.exit("`vouchsafe dev` does not start")
        time.sleep(0.1)


def _run_console(readme: str) -> int:
    failures = 0
    last_id = ""
    for example in examples(readme):
        command, shown = example
        if command.startswith(("make ", "export ")):
            continue  # they run this check, or are run beside it; the key is that of a service that keeps nothing
        ran = subprocess.run(
            ["bash", "-c", REDEMPTION_ID.sub(last_id, command) if last_id else command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        last_id = next(iter(REDEMPTION_ID.findall(ran.stdout)), last_id)
        well = ran.returncode == example.status and (not shown or ran.stdout.split()[:1] == shown.split()[:1])
        failures += not well
        print(f"{'ok  ' if well else 'FAIL'} {' '.join(command.split())[:100]}")
        if not well:
            print(textwrap.indent(f"status {ran.returncode}\n{ran.stdout}{ran.stderr}", "     "))
    return failures


def _run_python(readme: str) -> int:
    failures = 0
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        names: dict[str, object] = {}
        source = "async def example():\n" + textwrap.indent(block, "    ")
        try:
            exec(compile(source, "README.md", "exec"), names)  # noqa: S102  # the README is ours
            asyncio.run(names["example"]())  # type: ignore[operator]
            print("ok   the Python example")
        except Exception as error:  # noqa: BLE001  # whatever it is, the example does not work
            failures += 1
            print(f"FAIL the Python example: {error!r}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
