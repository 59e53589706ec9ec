"""Generates src/vouchsafe/v1 from the protos. With --check it writes nothing and fails when the tree differs."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
TARGET = PROTOS.parent / "src/vouchsafe/v1"
# A top-level package `buf` in our wheel would collide with the one of every other project that does the same.
VENDORED_IMPORT, OWN_IMPORT = "from buf.validate import", "from vouchsafe.v1.buf.validate import"


def generate(scratch: Path) -> dict[Path, str]:
    """The text of every file of the generated package, by its path below TARGET."""
    protos = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))
    services = [path for path in protos if path.stem.endswith("_service")]
    _protoc(protos, f"--python_out={scratch}", f"--mypy_out=quiet:{scratch}")
    _protoc(services, f"--grpc_python_out={scratch}", f"--mypy_grpc_out=quiet:{scratch}")

    files = {}
    for folder, below in (("vouchsafe/v1", ""), ("buf", "buf")):
        for path in (scratch / folder).rglob("*.py*"):
            text = path.read_text(encoding="utf-8").replace(VENDORED_IMPORT, OWN_IMPORT)
            files[Path(below) / path.relative_to(scratch / folder)] = text
    for package in {parent for path in files for parent in path.parents}:
        files[package / "__init__.py"] = '"""Generated from the protos by `make proto`; never edited."""\n'
    return files


def _protoc(protos: list[Path], *outputs: str) -> None:
    scripts = Path(sys.executable).parent  # not resolved: the plugins stand beside the python of this environment
    plugins = [f"--plugin={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *plugins, *outputs, *map(str, protos)]
    subprocess.run(command, check=True, cwd=PROTOS)


def standing() -> dict[Path, str]:
    """The text of every file that stands in TARGET now, by its path below it."""
    files = (path for path in TARGET.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(TARGET): path.read_text(encoding="utf-8") for path in files}


def main() -> int:
    """Makes TARGET hold exactly what the protos give, or with --check says what differs and returns 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the tree differs")
    check = parser.parse_args().check

    with tempfile.TemporaryDirectory() as scratch:
        wanted = generate(Path(scratch))
    present = standing()
    differing = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    if check:
        for path in differing:
            print(f"{TARGET / path} is not what the protos give; run `make proto`", file=sys.stderr)
        return 1 if differing else 0
    for path in differing:
        file = TARGET / path
        if path in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[path], encoding="utf-8")
        else:
            file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
