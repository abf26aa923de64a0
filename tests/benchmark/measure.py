"""The pair beside what people would use instead: whole processes, one node, one run.

Sends orders with the broker's confirmation and drains them with no work to do, with
producer.py and consumer.py and with each of the peers, in its safest documented setting
and in its default one. Prints Markdown. tests/run benchmark installs the peers first.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import psutil

from rig.broker import Broker, wait_until
from rig.measuring import (
    DONE,
    RECEIVED,
    elapsed,
    family,
    memory,
    progress,
    seen,
    server_version,
    table,
)
from rig.orders import names, ready, write_orders
from rig.programs import own_broker, run
from rig.scripts import PRODUCER, Script

PEERS = Path(__file__).resolve().parent / "peers"
QUEUES = ["orders", "orders.dead", "peer", "peer.DQ", "peer.XQ"]

Result = Dict[str, Any]
Command = Tuple[object, ...]


class Way(NamedTuple):
    """A way to send orders, or to work them off."""

    group: str  # what --only chooses
    name: str
    setting: str  # safest or default; what PEER_SETTING says
    program: Command
    guarantee: str
    queue: str = "peer"


def peer(name: str, *arguments: str) -> Command:
    """Return the command that runs one of the peers."""
    return (PEERS / f"{name}.py", *arguments)


OURS = "pair"
NONE, ONE_BY_ONE = "none", "confirmed, one by one"
DISK = "confirmed: on disk, on most nodes"
PIKA_SEND, CELERY_SEND = peer("pika_publish"), peer("celery_publish")
DRAMATIQ_SEND, AIO_PIKA_SEND = peer("dramatiq_publish"), peer("aio_pika_publish")
FASTSTREAM_SEND = peer("faststream_publish")
AT_ONCE = "aio-pika, persistent, 500 at once"
SEND = [
    Way(OURS, "producer.py", "safest", (PRODUCER,), DISK, "orders"),
    Way("pika", "tutorial's loop", "default", PIKA_SEND, NONE),
    Way("pika", "pika, confirm_delivery", "safest", PIKA_SEND, ONE_BY_ONE),
    Way("celery", "Celery", "default", CELERY_SEND, NONE),
    Way("celery", "Celery, confirm_publish", "safest", CELERY_SEND, ONE_BY_ONE),
    Way("dramatiq", "Dramatiq", "default", DRAMATIQ_SEND, NONE),
    Way("dramatiq", "Dramatiq, confirm_delivery", "safest", DRAMATIQ_SEND, ONE_BY_ONE),
    Way("aio-pika", "aio-pika", "default", AIO_PIKA_SEND, ONE_BY_ONE),
    Way("aio-pika", AT_ONCE, "safest", AIO_PIKA_SEND, "confirmed"),
    Way("faststream", "FastStream", "default", FASTSTREAM_SEND, ONE_BY_ONE),
    Way("faststream", "FastStream, persistent", "safest", FASTSTREAM_SEND, ONE_BY_ONE),
]
GROUPS = list(dict.fromkeys(way.group for way in SEND))

LATE = "at least once: acknowledged after the work"
EARLY = "at most once: acknowledged before the work"
CONSUME = peer("consumer_without_work")
PIKA, AIO_PIKA = peer("pika_drain"), peer("aio_pika_drain")
CELERY = ("-m", "celery", "--quiet", "-A", "celery_app", "worker", "--concurrency", "1")
DRAMATIQ = ("-m", "dramatiq", "dramatiq_app", "--processes", "1", "--threads", "1")
FASTSTREAM = peer("faststream_app")
IN_A_THREAD = "aio-pika, prefetch 1, work in a thread"
DRAIN = [
    Way(OURS, "consumer.py", "safest", CONSUME, LATE, "orders"),
    Way("pika", "tutorial, auto_ack", "default", PIKA, EARLY),
    Way("pika", "tutorial, prefetch 1", "safest", PIKA, LATE),
    Way("celery", "Celery", "default", CELERY, EARLY),
    Way("celery", "Celery, acks_late, prefetch 1", "safest", CELERY, LATE),
    Way("dramatiq", "Dramatiq, prefetch 2", "default", DRAMATIQ, LATE),
    Way("dramatiq", "Dramatiq, prefetch 1", "safest", DRAMATIQ, LATE),
    Way("aio-pika", "aio-pika, no limit", "default", AIO_PIKA, LATE),
    Way("aio-pika", "aio-pika, prefetch 1", "safest", AIO_PIKA, LATE),
    Way("aio-pika", IN_A_THREAD, "safest", (*AIO_PIKA, "thread"), LATE),
    Way("faststream", "FastStream, no limit", "default", FASTSTREAM, LATE),
    Way("faststream", "FastStream, prefetch 1", "safest", FASTSTREAM, LATE),
]


def peak_memory(pid: int) -> float:
    """Return the most memory that the process has had so far, in MB; 0 if it is gone.

    The usual ru_maxrss would not do: it counts what this process had at the fork, too.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    except (OSError, IndexError):  # it has ended; or this is not Linux
        return memory(pid)


class Program(Script):
    """A program of the pair or of a peer; whatever it started ends with it."""

    def __init__(self, bench: "Bench", way: Way, *arguments: object) -> None:
        self.memory = 0.0
        prefetch = "1" if way.setting == "safest" else "0"  # 0: Dramatiq's default
        super().__init__(
            *(bench.python, *way.program, *arguments),
            python=False,
            url=bench.broker.url(),
            TMPDIR=str(bench.folder),  # a worker that is killed leaves things there
            PYTHONPATH=str(PEERS),
            PEER_SETTING=way.setting,
            dramatiq_queue_prefetch=prefetch,
        )

    def watch(self) -> None:
        """Follow its memory until it ends, in a thread."""

        def follow() -> None:
            while self.process.poll() is None:
                self.memory = max(self.memory, peak_memory(self.process.pid))
                time.sleep(0.02)

        threading.Thread(target=follow, daemon=True).start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *error: Any) -> None:
        alive = self.process.poll() is None
        started = family(self.process.pid)[1:] if alive else []
        super().__exit__(*error)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Bench:
    """Where all is measured: a broker, the Python that has the peers, and files."""

    def __init__(self, broker: Broker, python: Path, folder: Path) -> None:
        self.broker, self.python, self.folder = broker, python, folder

    def orders(self, count: int) -> Path:
        """Return a file of so many orders."""
        file = self.folder / f"{count}.jsonl"
        return file if file.exists() else write_orders(file, names("ORD", count))

    @contextlib.contextmanager
    def empty(self) -> Iterator[Any]:
        """Give a channel, none of the queues left."""
        with self.broker.connect() as connection:
            channel = connection.channel()
            for queue in QUEUES:
                channel.queue_delete(queue)
            yield channel

    def send(self, way: Way, count: int) -> Result:
        """Send so many orders; return the time from start to end, and the memory."""
        limit = 60 + count / 50  # seconds, far more than any takes
        with self.empty() as channel, Program(self, way, self.orders(count)) as sender:
            sender.watch()
            sender.wait_for("stored", limit=limit)
            assert sender.wait(limit) == 0, sender
            # Without confirmation the last orders may be under way. All must come:
            # nothing has crashed.
            wait_until(
                lambda: ready(channel, way.queue) == count,
                f"{way.name} to send {count} orders",
            )
            end = seen(sender, "(stored)")[0][1]
            return {"seconds": end - sender.started, "mb": sender.memory}

    def drain(self, way: Way, count: int, workers: int = 1) -> Result:
        """Let consumers work off so many orders; return how long it took.

        seconds: from the first order received to the last one processed; start_up: from
        the start of the first process to the first order received; tenths: the seconds
        of each tenth of the orders.
        """
        kind = (way.group, way.setting)
        self.send(next(w for w in SEND if (w.group, w.setting) == kind), count)
        with contextlib.ExitStack() as stack:
            channel = stack.enter_context(self.broker.connect()).channel()
            scripts = [stack.enter_context(Program(self, way)) for _ in range(workers)]

            def all_processed() -> bool:
                assert all(script.process.poll() is None for script in scripts), scripts
                if sum(len(script.lines["stdout"]) for script in scripts) < 2 * count:
                    return False  # two lines for each order: no need to look closer yet
                return sum(len(seen(script, DONE)) for script in scripts) >= count

            what = f"{way.name} to drain {count} orders"
            wait_until(all_processed, what, 60 + count / 50)
            processes = [p for script in scripts for p in family(script.process.pid)]
            peak = sum(peak_memory(process.pid) for process in processes)
            for script in scripts:
                script.signal(signal.SIGTERM)
            for script in scripts:
                script.wait()
            assert ready(channel, way.queue) == 0, f"{way.name} left orders"
        received = [line for script in scripts for line in seen(script, RECEIVED)]
        done = [line for script in scripts for line in seen(script, DONE)]
        assert len(done) == len(dict(done)) == count, f"{way.name}: {len(done)} done"
        begin = min(arrival for _, arrival in received)
        ends = sorted(arrival for _, arrival in done)
        marks = [begin, *(ends[count * tenth // 10 - 1] for tenth in range(1, 11))]
        return {
            "seconds": marks[-1] - marks[0],
            "start_up": begin - scripts[0].started,
            "mb": peak,
            "tenths": [after - before for before, after in zip(marks, marks[1:])],
        }


class Sizes(NamedTuple):
    """How much is measured."""

    send: int  # orders
    drain: int
    backlog: int
    repeats: int
    growth: List[int]  # how many orders to send, to see how the cost grows
    consumers: int  # up to so many at once


FULL = Sizes(10_000, 3_000, 100_000, 5, [100, 1_000, 10_000, 100_000], 5)
QUICK = Sizes(1_000, 200, 1_000, 1, [10, 100], 2)


def in_turn(
    bench: Bench, ways: List[Way], count: int, repeats: int, draining: bool
) -> List[Result]:
    """Measure each way as often as told, all in turn: a slow minute hits them all."""
    runs: Dict[Way, List[Result]] = {way: [] for way in ways}
    start_ups: Dict[Way, List[float]] = {way: [] for way in ways}
    verb = "drain" if draining else "send"
    for repeat in range(1, repeats + 1):
        for way in ways:
            progress(f"{verb} {count}, {repeat} of {repeats}: {way.name}")
            if draining:
                runs[way].append(bench.drain(way, count))
                start_ups[way].append(runs[way][-1]["start_up"])
            else:
                runs[way].append(bench.send(way, count))
                start_ups[way].append(bench.send(way, 1)["seconds"])
    base = middle(runs[ways[0]])
    return [
        {
            "way": way.name,
            "setting": way.setting,
            "guarantee": way.guarantee,
            "median_s": middle(runs[way]),
            "min_s": min(run["seconds"] for run in runs[way]),
            "max_s": max(run["seconds"] for run in runs[way]),
            "per_s": count / middle(runs[way]),
            "ratio": middle(runs[way]) / base,
            "start_up_s": statistics.median(start_ups[way]),
            "mb": max(run["mb"] for run in runs[way]),
        }
        for way in ways
    ]


def middle(runs: List[Result]) -> float:
    """Return the median of the seconds."""
    return float(statistics.median(run["seconds"] for run in runs))


def growth(bench: Bench, count: int, repeats: int) -> Result:
    """Send so many orders with producer.py."""
    progress(f"producer.py, {count} orders")
    runs = [bench.send(SEND[0], count) for _ in range(repeats)]
    return {
        "orders": count,
        "seconds": middle(runs),
        "per_s": count / middle(runs),
        "mb": max(run["mb"] for run in runs),
    }


def beside_each_other(bench: Bench, workers: int, count: int, repeats: int) -> Result:
    """Drain so many orders with several of consumer.py."""
    progress(f"consumer.py, {workers} of it")
    runs = [bench.drain(DRAIN[0], count, workers) for _ in range(repeats)]
    seconds = middle(runs)
    return {"consumers": workers, "seconds": seconds, "per_s": count / seconds}


def measure(bench: Bench, sizes: Sizes, groups: List[str]) -> Result:
    """Run all that the command line asks for."""
    _, drain, backlog, repeats, counts, consumers = sizes
    senders = [way for way in SEND if way.group in (OURS, *groups)]
    drainers = [way for way in DRAIN if way.group in (OURS, *groups)]
    results: Result = {
        "sent": sizes.send,
        "drained": drain,
        "repeats": repeats,
        "backlog": backlog,
        "send": in_turn(bench, senders, sizes.send, repeats, draining=False),
        "drain": in_turn(bench, drainers, drain, repeats, draining=True),
        "growth": [growth(bench, count, repeats) for count in counts],
        "consumers": [
            beside_each_other(bench, workers, drain, repeats)
            for workers in range(1, consumers + 1)
        ],
    }
    progress(f"consumer.py, a backlog of {backlog}")
    results["drained_backlog"] = bench.drain(DRAIN[0], backlog)
    return results


def comparison(results: List[Result], start_up: str) -> str:
    """Return one of the two comparisons as a table."""
    return table(
        [
            "way",
            "setting",
            "median",
            "min to max",
            "orders/s",
            "time / ours",
            start_up,
            "memory",
            "guarantee",
        ],
        [
            [
                r["way"],
                r["setting"],
                f"{r['median_s']:.2f} s",
                f"{r['min_s']:.2f} to {r['max_s']:.2f} s",
                f"{r['per_s']:.0f}",
                f"{r['ratio']:.2f}",
                f"{r['start_up_s']:.2f} s",
                f"{r['mb']:.0f} MB",
                r["guarantee"],
            ]
            for r in results
        ],
    )


def markdown(results: Result) -> str:
    """Return the results as Markdown."""
    rate = results["backlog"] / 10
    tenths = [f"{rate / tenth:.0f}" for tenth in results["drained_backlog"]["tenths"]]
    return "\n\n".join(
        [
            f"Measured with {results['versions']}; {results['cores']} cores,"
            f" {results['repeats']} repeats in turn.",
            f"### Sending {results['sent']} orders",
            "From the start of the process to the last order stored, in a quorum"
            " queue.",
            comparison(results["send"], "start to first stored"),
            f"### Draining {results['drained']} orders, no work to do, one consumer",
            "From the first order received to the last one processed; memory: all of"
            " its processes.",
            comparison(results["drain"], "start to first received"),
            "### How the cost grows",
            table(
                ["orders sent by producer.py", "seconds", "orders/s", "peak memory"],
                [
                    [
                        r["orders"],
                        f"{r['seconds']:.2f}",
                        f"{r['per_s']:.0f}",
                        f"{r['mb']:.0f} MB",
                    ]
                    for r in results["growth"]
                ],
            ),
            table(
                ["consumers", f"seconds for {results['drained']} orders", "orders/s"],
                [
                    [r["consumers"], f"{r['seconds']:.2f}", f"{r['per_s']:.0f}"]
                    for r in results["consumers"]
                ],
            ),
            f"A backlog of {results['backlog']} orders, drained by one consumer in"
            f" {results['drained_backlog']['seconds']:.1f} s, tenth by tenth, in"
            f" orders/s: {', '.join(tenths)}.",
        ]
    )


def versions(python: Path, broker: Broker) -> str:
    """Return what is compared, each with its version."""
    peers = ("pika", "celery", "dramatiq", "aio-pika", "faststream")
    code = (
        "import importlib.metadata as m\n"
        "for d in m.distributions(): print(d.metadata['Name'], d.version)"
    )
    installed = subprocess.check_output([python, "-c", code], text=True).splitlines()
    found = {line.lower().split()[0]: line for line in installed}
    python_version = platform.python_version()
    ours = [f"RabbitMQ {server_version(broker)}", f"Python {python_version}"]
    return ", ".join([*ours, *(found[name] for name in peers if name in found)])


def main() -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="tests/run benchmark",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    python = Path(sys.executable)
    add("--python", type=Path, default=python, help="one that has the peers")
    add("--only", choices=GROUPS, action="append", help="these alone beside the pair")
    add("--quick", action="store_true", help="few orders, once: to see that it works")
    add("--repeats", type=int, help="default: 5")
    add("--json", action="store_true", help="print JSON instead of Markdown")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.repeats:
        sizes = sizes._replace(repeats=options.repeats)
    groups = options.only or GROUPS
    # Dramatiq cannot ask for a quorum queue, so the node makes one of what it declares.
    config = "default_queue_type = quorum\n" if "dramatiq" in groups else ""
    progress("starting a broker")
    with own_broker("benchmark", config) as (broker, folder):
        results = measure(Bench(broker, options.python, folder), sizes, groups)
        results.update(versions=versions(options.python, broker), cores=os.cpu_count())
    results["took_s"] = elapsed()
    print(json.dumps(results, indent=2) if options.json else markdown(results))
    progress("done")


if __name__ == "__main__":
    run(main)
