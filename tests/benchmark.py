"""The pair beside what people would use instead: whole processes, one private node, in one run.

Sends orders with the broker's confirmation and drains them with no work to do, with producer.py and
consumer.py and with each peer in tests/peers, in its safest documented setting and in its default one.
Prints Markdown. tests/run benchmark installs the peers first.
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
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from experiments import DONE, RECEIVED, orders_text, seen, table
from support import CONSUMER, PRODUCER, ROOT, Broker, Script, ready, wait_until

PEERS = ROOT / "tests" / "peers"
QUEUES = ["orders", "orders.dead", "peer", "peer.DQ", "peer.XQ"]

Result = Dict[str, Any]
started = time.monotonic()


def progress(text: str) -> None:
    """Say on stderr what is being measured."""
    print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)


class Way(NamedTuple):
    """A way to send orders, or to work them off."""

    group: str  # what --only chooses
    name: str
    setting: str  # safest or default; what PEER_SETTING says
    program: Tuple[object, ...]
    guarantee: str
    queue: str = "peer"


OURS, ONE_BY_ONE = "pair", "confirmed, one by one"
SEND = [
    Way(OURS, "producer.py", "safest", (PRODUCER,), "confirmed: on disk, on most nodes", "orders"),
    Way("pika", "tutorial's loop", "default", (PEERS / "pika_publish.py",), "none"),
    Way("pika", "pika, confirm_delivery", "safest", (PEERS / "pika_publish.py",), ONE_BY_ONE),
    Way("celery", "Celery", "default", (PEERS / "celery_publish.py",), "none"),
    Way("celery", "Celery, confirm_publish", "safest", (PEERS / "celery_publish.py",), ONE_BY_ONE),
    Way("dramatiq", "Dramatiq", "default", (PEERS / "dramatiq_publish.py",), "none"),
    Way(
        "dramatiq",
        "Dramatiq, confirm_delivery",
        "safest",
        (PEERS / "dramatiq_publish.py",),
        ONE_BY_ONE,
    ),
    Way("aio-pika", "aio-pika", "default", (PEERS / "aio_pika_publish.py",), ONE_BY_ONE),
    Way(
        "aio-pika",
        "aio-pika, persistent, 500 at once",
        "safest",
        (PEERS / "aio_pika_publish.py",),
        "confirmed",
    ),
    Way("faststream", "FastStream", "default", (PEERS / "faststream_publish.py",), ONE_BY_ONE),
    Way(
        "faststream",
        "FastStream, persistent",
        "safest",
        (PEERS / "faststream_publish.py",),
        ONE_BY_ONE,
    ),
]
CELERY = ("-m", "celery", "--quiet", "-A", "celery_app", "worker", "--concurrency", "1")
DRAMATIQ = ("-m", "dramatiq", "dramatiq_app", "--processes", "1", "--threads", "1")
LATE, EARLY = "at least once: acknowledged after the work", "at most once: acknowledged before the work"
DRAIN = [
    Way(OURS, "consumer.py", "safest", (CONSUMER, "--processing-time", "0"), LATE, "orders"),
    Way("pika", "tutorial, auto_ack", "default", (PEERS / "pika_drain.py",), EARLY),
    Way("pika", "tutorial, prefetch 1", "safest", (PEERS / "pika_drain.py",), LATE),
    Way("celery", "Celery", "default", CELERY, EARLY),
    Way("celery", "Celery, acks_late, prefetch 1", "safest", CELERY, LATE),
    Way("dramatiq", "Dramatiq, prefetch 2", "default", DRAMATIQ, LATE),
    Way("dramatiq", "Dramatiq, prefetch 1", "safest", DRAMATIQ, LATE),
    Way("aio-pika", "aio-pika, no limit", "default", (PEERS / "aio_pika_drain.py",), LATE),
    Way("aio-pika", "aio-pika, prefetch 1", "safest", (PEERS / "aio_pika_drain.py",), LATE),
    Way("faststream", "FastStream, no limit", "default", (PEERS / "faststream_app.py",), LATE),
    Way("faststream", "FastStream, prefetch 1", "safest", (PEERS / "faststream_app.py",), LATE),
]


def descendants(pid: int) -> List[int]:
    """Return the process and all that it has started."""
    pairs = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True).split()
    found = [pid]
    for parent in found:
        found += [int(child) for child, above in zip(pairs[::2], pairs[1::2]) if int(above) == parent]
    return found


def peak_memory(pid: int) -> float:
    """Return the most memory that the process has had so far, in MB; 0 if it is gone.

    The usual ru_maxrss would not do: it counts what this process had at the fork, too.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    except (OSError, IndexError):  # it has ended; or this is not Linux, and ps must do
        found = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False)
        return int(found.stdout or 0) / 1024


class Program(Script):
    """A program of the pair or of a peer; at the end, whatever it started ends with it."""

    def __init__(self, bench: "Bench", way: Way, *arguments: object) -> None:
        self.memory = 0.0
        super().__init__(
            bench.python,
            *way.program,
            *arguments,
            python=False,
            url=bench.broker.url(),
            TMPDIR=str(bench.folder),  # a worker that is killed leaves things there
            PYTHONPATH=str(PEERS),
            PEER_SETTING=way.setting,
            dramatiq_queue_prefetch="1" if way.setting == "safest" else "0",  # 0: its default
        )

    def watch(self) -> None:
        """Follow its memory until it ends, in a thread."""

        def follow() -> None:
            while self.process.poll() is None:
                self.memory = max(self.memory, peak_memory(self.process.pid))
                time.sleep(0.02)

        threading.Thread(target=follow, daemon=True).start()

    def arrival(self, pattern: str) -> float:
        """Return when the first line came that the pattern matches."""
        lines = zip(self.lines["stdout"], self.arrivals["stdout"])
        return next(arrival for line, arrival in lines if re.search(pattern, line))

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *error: Any) -> None:
        family = descendants(self.process.pid) if self.process.poll() is None else []
        super().__exit__(*error)
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Bench:
    """Where everything is measured: a broker, the Python that has the peers, and files of orders."""

    def __init__(self, broker: Broker, python: Path, folder: Path) -> None:
        self.broker, self.python, self.folder = broker, python, folder

    def orders(self, count: int) -> Path:
        """Return a file of so many orders."""
        file = self.folder / f"{count}.jsonl"
        if not file.exists():
            file.write_bytes(orders_text(count))
        return file

    @contextlib.contextmanager
    def empty(self) -> Iterator[Any]:
        """Give a channel, none of the queues left."""
        with self.broker.connect() as connection:
            channel = connection.channel()
            for queue in QUEUES:
                channel.queue_delete(queue)
            yield channel

    def send(self, way: Way, count: int) -> Result:
        """Send so many orders; return the time from the start to the last confirmation, and the memory."""
        limit = 60 + count / 50  # seconds, far more than any takes
        with self.empty() as channel, Program(self, way, self.orders(count)) as sender:
            sender.watch()
            sender.wait_for("stored", limit=limit)
            assert sender.wait(limit) == 0, sender
            # Without confirmation the last orders may be under way. All must come: nothing has crashed.
            wait_until(lambda: ready(channel, way.queue) == count, f"{way.name} to send {count} orders")
            return {"seconds": sender.arrival("stored") - sender.started, "mb": sender.memory}

    def drain(self, way: Way, count: int, workers: int = 1) -> Result:
        """Let consumers work off so many orders, sent by the same means, and return how long it took.

        seconds: from the first order received to the last one processed; start_up: from the start of
        the first process to the first order received; tenths: the seconds of each tenth of the orders.
        """
        self.send(next(w for w in SEND if (w.group, w.setting) == (way.group, way.setting)), count)
        with contextlib.ExitStack() as stack:
            channel = stack.enter_context(self.broker.connect()).channel()
            scripts = [stack.enter_context(Program(self, way)) for _ in range(workers)]

            def all_processed() -> bool:
                assert all(script.process.poll() is None for script in scripts), scripts
                if sum(len(script.lines["stdout"]) for script in scripts) < 2 * count:
                    return False  # two lines for each order: no need to look closer yet
                return sum(len(seen(script, DONE)) for script in scripts) >= count

            wait_until(all_processed, f"{way.name} to drain {count} orders", 60 + count / 50)
            memory = sum(peak_memory(pid) for script in scripts for pid in descendants(script.process.pid))
            for script in scripts:
                script.signal(signal.SIGTERM)
            for script in scripts:
                script.wait()
            assert ready(channel, way.queue) == 0, f"{way.name} left orders unacknowledged"
            received = sorted(moment for script in scripts for _, moment in seen(script, RECEIVED))
            done = sorted((moment, order) for script in scripts for order, moment in seen(script, DONE))
            assert len(done) == len({order for _, order in done}) == count, f"{way.name}: {len(done)} done"
        marks = [received[0], *(done[count * tenth // 10 - 1][0] for tenth in range(1, 11))]
        return {
            "seconds": marks[-1] - marks[0],
            "start_up": received[0] - scripts[0].started,
            "mb": memory,
            "tenths": [after - before for before, after in zip(marks, marks[1:])],
        }


def middle(values: List[float]) -> float:
    return statistics.median(values)


def repeated(bench: Bench, ways: List[Way], count: int, repeats: int, draining: bool) -> List[Result]:
    """Measure each way as often as told, all of them in turn, so that a slow minute hits them all."""
    runs: Dict[Way, List[Result]] = {way: [] for way in ways}
    singles: Dict[Way, List[float]] = {way: [] for way in ways}
    for repeat in range(1, repeats + 1):
        for way in ways:
            progress(f"{'drain' if draining else 'send'} {count}, {repeat} of {repeats}: {way.name}")
            if draining:
                runs[way].append(bench.drain(way, count))
                singles[way].append(runs[way][-1]["start_up"])
            else:
                runs[way].append(bench.send(way, count))
                singles[way].append(bench.send(way, 1)["seconds"])
    base = middle([run["seconds"] for run in runs[ways[0]]])
    results = []
    for way in ways:
        seconds = [run["seconds"] for run in runs[way]]
        results.append(
            {
                "way": way.name,
                "setting": way.setting,
                "guarantee": way.guarantee,
                "median_s": middle(seconds),
                "min_s": min(seconds),
                "max_s": max(seconds),
                "per_s": count / middle(seconds),
                "ratio": middle(seconds) / base,
                "start_up_s": middle(singles[way]),
                "mb": max(run["mb"] for run in runs[way]),
            }
        )
    return results


def measure(bench: Bench, run: argparse.Namespace) -> Result:
    """Run all that the command line asks for."""
    send, drain, backlog, repeats = 10_000, 3_000, 100_000, run.repeats or 5
    sizes, most = [100, 1_000, 10_000, 100_000], 5
    if run.quick:
        send, drain, backlog, repeats, sizes = 1_000, 200, 1_000, run.repeats or 1, [10, 100]
        most = 2
    results: Result = {"sent": send, "drained": drain, "repeats": repeats, "backlog": backlog}

    def chosen(ways: List[Way]) -> List[Way]:
        return [way for way in ways if way.group in {OURS, *(run.only or GROUPS)}]

    results["send"] = repeated(bench, chosen(SEND), send, repeats, draining=False)
    results["drain"] = repeated(bench, chosen(DRAIN), drain, repeats, draining=True)
    results["growth"] = []
    for count in sizes:
        progress(f"producer.py, {count} orders")
        runs = [bench.send(SEND[0], count) for _ in range(repeats)]
        seconds, memory = middle([r["seconds"] for r in runs]), max(r["mb"] for r in runs)
        results["growth"].append(
            {"orders": count, "seconds": seconds, "per_s": count / seconds, "mb": memory}
        )
    results["consumers"] = []
    for workers in range(1, most + 1):
        progress(f"consumer.py, {workers} of it")
        runs = [bench.drain(DRAIN[0], drain, workers) for _ in range(repeats)]
        seconds = middle([r["seconds"] for r in runs])
        results["consumers"].append({"consumers": workers, "seconds": seconds, "per_s": drain / seconds})
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
    tenths = results["drained_backlog"]["tenths"]
    rate = results["backlog"] / 10
    return "\n\n".join(
        [
            "Measured with {versions}; {cores} cores, {repeats} repeats in turn.".format(**results),
            "### Sending {sent} orders".format(**results),
            "From the start of the process to the last order stored, in a quorum queue.",
            comparison(results["send"], "start to first stored"),
            "### Draining {drained} orders, no work to do, one consumer".format(**results),
            "From the first order received to the last one processed; memory: all of its processes.",
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
                [[r["consumers"], f"{r['seconds']:.2f}", f"{r['per_s']:.0f}"] for r in results["consumers"]],
            ),
            f"A backlog of {results['backlog']} orders, drained by one consumer in"
            f" {results['drained_backlog']['seconds']:.1f} s, tenth by tenth, in orders/s: "
            + ", ".join(f"{rate / tenth:.0f}" for tenth in tenths)
            + ".",
        ]
    )


GROUPS = list(dict.fromkeys(way.group for way in SEND))


def versions(python: Path, broker: Broker) -> str:
    """Return what is compared, each with its version."""
    names = ["pika", "celery", "dramatiq", "aio-pika", "faststream"]
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'], d.version)"
    installed = subprocess.check_output([python, "-c", code], text=True).splitlines()
    found = [line for name in names for line in installed if line.lower().startswith(f"{name} ")]
    with broker.connect() as connection:
        server = connection._impl.server_properties["version"]
    return ", ".join([f"RabbitMQ {server}", f"Python {platform.python_version()}", *found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="one that has the peers")
    parser.add_argument("--only", choices=GROUPS, action="append", help="beside the pair, these alone")
    parser.add_argument("--quick", action="store_true", help="few orders, once: to see that it works")
    parser.add_argument("--repeats", type=int, help="default: 5")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    run = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="orders-benchmark-") as folder:
        progress("starting a broker")
        # Dramatiq cannot ask for a quorum queue, so the node makes one of what it declares.
        dramatiq = "dramatiq" in (run.only or GROUPS)
        broker = Broker(Path(folder) / "node", "default_queue_type = quorum\n" if dramatiq else "")
        try:
            broker.start()
            results = measure(Bench(broker, run.python, Path(folder)), run)
            results.update(versions=versions(run.python, broker), cores=os.cpu_count())
        finally:
            broker.stop()
    results["took_s"] = time.monotonic() - started
    print(json.dumps(results, indent=2) if run.json else markdown(results))
    progress("done")


if __name__ == "__main__":
    main()
