"""What scripts have done for certain, as they noted it themselves (changes.py)."""

import json
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rig.broker import wait_until
from rig.scripts import Script, changed


class Notes:
    """The orders that some scripts have worked off or stored, from their file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._count: Counter[str] = Counter()
        self._read_up_to = 0
        self._lock = threading.Lock()

    def consumer(self, url: str, seconds: float = 0) -> Script:
        """Start a consumer that notes each order right before its acknowledgement."""
        arguments = ("--processing-time", seconds)
        return changed("noting_consumer", *arguments, url=url, NOTES=str(self.path))

    def producer(self, url: str, file: Path) -> Script:
        """Start a producer that notes each order of the file when it is confirmed."""
        return changed("noting_producer", file, url=url, NOTES=str(self.path))

    def count(self) -> Counter[str]:
        """Return how often each order was noted: a counter that each call updates."""
        with self._lock, self.path.open("rb") as file:
            file.seek(self._read_up_to)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the rest is just being written
            self._read_up_to += len(whole)
            for line in whole.split(b"\n"):
                try:
                    self._count[json.loads(line)] += 1
                except ValueError:  # empty, or cut short by a SIGKILL
                    continue
            return self._count

    def wait_for(self, ids: Iterable[str]) -> Counter[str]:
        """Wait until each of the orders was noted."""
        wanted = set(ids)
        wait_until(lambda: wanted <= self.count().keys(), f"{len(wanted)} orders in {self.path}")
        return self.count()
