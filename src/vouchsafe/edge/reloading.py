"""What is read from files, and read again when they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from cryptography.exceptions import UnsupportedAlgorithm

from vouchsafe.domain.errors import Misconfigured

Value = TypeVar("Value")

UNUSABLE = (OSError, ValueError, UnsupportedAlgorithm)

log = structlog.get_logger()


class Reloaded(Generic[Value]):
    """A value of some files. One that cannot be made of what stands there later leaves the one before in its place: a
    certificate and its key are seldom exchanged in the same moment.

    `make` is given the contents in order, and raises ValueError for what it does not take. Raises Misconfigured when it
    does not take the first.
    """

    def __init__(self, files: Sequence[str], make: Callable[..., Value]) -> None:
        self._files = [Path(file) for file in files]
        self._make = make
        try:
            self._seen = self._stamp()
            self.value = self._read()
        except UNUSABLE as error:
            raise Misconfigured(f"cannot use {' and '.join(files)}: {error}") from None

    def look(self) -> bool:
        """Reads the files again if one of them has changed; answers whether there is another value now."""
        names = [str(file) for file in self._files]
        try:
            # Before the contents: what changes in between is noticed the next time.
            if (stamp := self._stamp()) == self._seen:
                return False
            self._seen = stamp
            self.value = self._read()
        except UNUSABLE as error:
            log.warning("files cannot be used; what they held before stays", files=names, error=str(error))
            return False
        log.info("files were read again", files=names)
        return True

    def _stamp(self) -> list[tuple[int, int, int]]:
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in (file.stat() for file in self._files)]

    def _read(self) -> Value:
        return self._make(*[file.read_bytes() for file in self._files])
