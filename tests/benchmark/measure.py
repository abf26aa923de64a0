"""Ours beside what people would use instead: whole processes, one node, quorum queues.

Publishes orders, drains them without work, then shows how the cost of ours grows.
Prints Markdown. tests/run benchmark installs the peers first.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rig.broker import wait_until
from rig.orders import names, ready, write_orders
from rig.programs import family, own_broker, progress, run, table, versions
from rig.scripts import PRODUCER, Script


class Way(NamedTuple):
    """A program that publishes or drains orders: a row of a table."""

    library: str
    name: str
    guarantee: str
    command: tuple[object, ...]
    orders: int = 10_000  # of all processes together
    processes: int = 1


PEERS = Path(__file__).parent / "peers" / "peers.py"
# Not --processing-time 0: time.sleep(0) asks the system, which takes 0.08 ms an order.
CONSUMER = "import consumer as c; c.process_order = lambda order: None; c.main()"
DRAMATIQ = ("-m", "dramatiq", "benchmark.peers.peers:dramatiq", "-p", "1", "-t", "1")
NONE, SURE, LATE = "none", "confirmed", "acknowledged after the work"
PUBLISH = [
    Way("ours", "producer.py", SURE, (PRODUCER,)),
    Way("pika", "pika, confirm_delivery", SURE, (PEERS, "pika", "confirm_delivery")),
    Way("pika", "pika, the tutorial's loop", NONE, (PEERS, "pika", "publish")),
    Way("celery", "Celery, confirm_publish", SURE, (PEERS, "celery")),
    Way("dramatiq", "Dramatiq, confirm_delivery", SURE, (PEERS, "dramatiq")),
    Way("faststream", "FastStream, persistent", SURE, (PEERS, "faststream")),
    Way("aio-pika", "aio-pika, one by one", SURE, (PEERS, "aio_pika", 1)),
    Way("aio-pika", "aio-pika, 500 at once", SURE, (PEERS, "aio_pika", 500)),
]
DRAIN = [
    Way("ours", "consumer.py", LATE, ("-c", CONSUMER), 3_000),
    Way("pika", "pika, the tutorial's worker", LATE, (PEERS, "pika", "drain"), 3_000),
    Way("aio-pika", "aio-pika, in a thread", LATE, (PEERS, "aio_pika", "drain"), 3_000),
    Way("celery", "Celery, acks_late", LATE, (PEERS, "celery"), 3_000),
    Way("dramatiq", "Dramatiq", LATE, DRAMATIQ, 3_000),
]
OURS = PUBLISH[0]
TABLES = {
    "Publishing": PUBLISH,
    "Draining": DRAIN,
    "More orders": [OURS._replace(orders=n) for n in (1_000, 10_000, 100_000)],
    "Producers": [OURS._replace(orders=2_500 * n, processes=n) for n in (1, 2, 4, 8)],
    "Consumers": [DRAIN[0]._replace(processes=n) for n in (1, 2, 4)],
}
LIBRARIES = list(dict.fromkeys(way.library for way in PUBLISH[1:]))
HEAD = ["way", "guarantee", "orders", "median, s", "min to max, s", "orders/s"]
HEAD += ["time / first row's", "memory, MB"]


def peak_memory(pids: list[int]) -> float:
    """Return the most memory that each has had so far, in MB, together."""
    kilobytes = 0
    for pid in pids:
        with suppress(OSError):  # it is gone, or this is not Linux
            # Not ru_maxrss: that counts what this process had at the fork, too.
            status = Path(f"/proc/{pid}/status").read_text()
            kilobytes += sum(map(int, re.findall(r"VmHWM:\s+(\d+)", status)))
    return kilobytes / 1024


def seen(scripts: list[Script], pattern: str) -> dict[str, float]:
    """Return what matches as group 1 in their lines, and when it came."""
    return dict(found for script in scripts for found in script.seen(pattern))


class Bench:
    """Where the ways are measured. Each cost is in seconds and MB."""

    def __init__(self, channel: Any, file: Path, python: str) -> None:
        self.channel, self.file, self.python = channel, file, python

    def start(self, stack: ExitStack, way: Way, *arguments: object) -> list[Script]:
        """Start the processes of a way, to be ended with the stack."""
        scripts = []
        for _ in range(way.processes):
            script = Script(*way.command, *arguments, python=self.python)
            scripts.append(stack.enter_context(script))
            stack.callback(script.wait)
            stack.callback(script.signal, signal.SIGTERM)  # so that its children end
        return scripts

    def publish(self, way: Way) -> tuple[float, float]:
        """Measure from the start of the first process to the last order stored."""
        write_orders(self.file, names("ORD", way.orders // way.processes))
        for queue in ("orders", "orders.dead", "orders.DQ", "orders.XQ"):
            self.channel.queue_delete(queue)
        peak = 0.0
        with ExitStack() as stack:
            scripts = self.start(stack, way, self.file)
            while any(script.process.poll() is None for script in scripts):
                peak = max(peak, peak_memory([s.process.pid for s in scripts]))
                self.channel.connection.sleep(0.1)
            assert not any(script.wait() for script in scripts), scripts
            # What is not confirmed may be under way.
            wait_until(lambda: ready(self.channel) == way.orders, f"all of {way}")
            ends = [script.seen("(orders stored)$")[0][1] for script in scripts]
            return max(ends) - scripts[0].started, peak

    def drain(self, way: Way) -> tuple[float, float]:
        """Measure from the first order received to the last one processed."""
        fill = next(publish for publish in PUBLISH if publish.library == way.library)
        self.publish(fill._replace(orders=way.orders))
        with ExitStack() as stack:
            scripts = self.start(stack, way)
            while len(done := seen(scripts, r"Processed (\S+)")) < way.orders:
                assert all(script.process.poll() is None for script in scripts), scripts
                self.channel.connection.sleep(0.2)
            running = [p.pid for s in scripts for p in family(s.process.pid)]
            peak = peak_memory(running)
            self.channel.connection.sleep(0.5)  # for the last acknowledgement
        assert ready(self.channel) == 0, f"{way} left orders"
        begin = min(seen(scripts, r"Received (\S+)").values())
        return max(done.values()) - begin, peak


def report(bench: Bench, title: str, ways: list[Way], repeats: int) -> None:
    """Measure the ways in turn, so that a slow minute hits them all; print a table."""
    costs: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
    for repeat in range(1, repeats + 1):
        for way in ways:
            progress(f"{title}, {repeat} of {repeats}: {way.name}")
            measure = bench.drain if way.guarantee == LATE else bench.publish
            costs[way].append(measure(way))
    first = median(seconds for seconds, _ in costs[ways[0]])
    rows: list[list[object]] = []
    for way in ways:
        seconds, memory = zip(*costs[way], strict=True)
        middle, spread = median(seconds), f"{min(seconds):.2f} to {max(seconds):.2f}"
        name = f"{way.processes} x {way.name}" if way.processes > 1 else way.name
        row = [name, way.guarantee, f"{way.orders:,}", f"{middle:.2f}", spread]
        row += [f"{way.orders / middle:.0f}", f"{middle / first:.2f}"]
        rows.append([*row, f"{max(memory):.0f}"])
    print(f"### {title}\n\n{table(HEAD, rows)}\n", flush=True)


def main() -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(prog="tests/run benchmark", description=__doc__)
    add = parser.add_argument
    add("--python", default=sys.executable, help="one that has the libraries")
    add("--quick", action="store_true", help="few orders, once: to see that it works")
    add("--repeats", type=int, help="default: 5")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)
    part = 20 if options.quick else 1
    freeze = subprocess.check_output([options.python, "-m", "pip", "freeze"], text=True)
    peers = [line for line in freeze.split() if line.split("==")[0] in LIBRARIES]
    progress("starting a broker")
    config = "default_queue_type = quorum\n"  # Dramatiq cannot ask for it
    with own_broker("benchmark", config) as (broker, files), broker.connect() as link:
        os.environ.update(AMQP_URL=broker.url(), dramatiq_queue_prefetch="1")
        os.environ["TMPDIR"] = str(files)  # an interrupted worker leaves things there
        print(f"{versions(broker)}; {', '.join(peers)}; {repeats} repeats in turn\n")
        bench = Bench(link.channel(), files / "orders.jsonl", options.python)
        for title, ways in TABLES.items():
            ways = [way._replace(orders=way.orders // part) for way in ways]
            # How ours grows is measured once.
            report(bench, title, ways, repeats if title.endswith("ing") else 1)


if __name__ == "__main__":
    run(main)
