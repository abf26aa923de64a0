"""What scripts have done for certain, as they noted it themselves (noting.py)."""

import contextlib
import json
import threading
from pathlib import Path
from typing import Any, Counter, Dict, Iterable, Iterator, List

from rig.broker import wait_until
from rig.scripts import TESTS, Script


def noted(text: bytes) -> Iterator[Dict[str, Any]]:
    """Return the orders in a text of noting.py, without a line that was cut short."""
    for line in text.split(b"\n"):
        with contextlib.suppress(ValueError):
            yield json.loads(line)


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
        return self._start(url, "consumer", "--processing-time", seconds)

    def producer(self, url: str, file: Path) -> Script:
        """Start a producer that notes each order of the file when it is confirmed."""
        return self._start(url, "producer", file)

    def _start(self, url: str, *arguments: object) -> Script:
        return Script(
            *("-m", "rig.noting", *arguments),
            url=url,
            PYTHONPATH=str(TESTS),
            NOTES=str(self.path),
        )

    def count(self) -> Counter[str]:
        """Return how often each order was noted: a counter that each call updates."""
        with self._lock, self.path.open("rb") as file:
            file.seek(self._read_up_to)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the rest is just being written
            self._read_up_to += len(whole)
            self._count.update(order["order_id"] for order in noted(whole))
            return self._count

    def orders(self) -> List[Dict[str, Any]]:
        """Return the orders as the scripts saw them, in their order."""
        return list(noted(self.path.read_bytes()))

    def wait_for(self, ids: Iterable[str], limit: float = 60) -> Counter[str]:
        """Wait until each of the orders was noted."""
        wanted = set(ids)
        wait_until(
            lambda: wanted <= self.count().keys(),
            f"{len(wanted)} orders in {self.path}",
            limit,
        )
        return self.count()
