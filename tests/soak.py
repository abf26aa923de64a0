"""Publish and work off orders at full speed while consumers and broker are killed at random; then count.

Exits with 1 if an order was lost. The seed decides which fault comes when; what it hits in that
moment is the machine's choice, as with any race.
"""

import argparse
import contextlib
import itertools
import random
import re
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Set

import pika
from faults import Notes, drain, names, write_orders
from support import PRODUCER, Broker, Script, ready, wait_until

PRODUCERS, CONSUMERS = 2, 3
ROUND = ["consumer killed"] * 6 + ["broker killed", "broker stopped"]  # each time in another order
BACKLOG = 2_000  # orders; producers are faster than consumers, and wait at this many


class Soak:
    """One run: a broker, and who publishes to it and works from it, all files in `folder`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.broker = Broker(folder / "broker")
        self.notes = Notes(folder / "notes")
        self.consumers: List[Script] = []
        self.confirmed: Set[str] = set()
        self.faults = dict.fromkeys(ROUND, 0)
        self.ending = threading.Event()  # producers finish the file in hand
        self.aborted = threading.Event()  # they do not

    def start(self) -> None:
        self.broker.start()
        with Script(PRODUCER, url=self.broker.url()) as first:
            assert first.wait() == 0, first
        time.sleep(1)  # see mortal_node in test_faults.py
        self.confirmed.update(f"ORD-00{number}" for number in range(1, 6))
        for _ in range(CONSUMERS):
            self.add_consumer()

    def add_consumer(self) -> None:
        self.consumers.append(self.notes.consumer(self.broker.url()))

    def produce(self, number: int) -> None:
        """Have producer.py publish file after file; keep what it says is stored."""
        for turn in itertools.count():
            wait_until(
                lambda: self.ending.is_set() or len(self.confirmed) - len(self.notes.count()) < BACKLOG,
                "consumers that keep up",
                300,
            )
            if self.ending.is_set():
                return
            ids = names(f"P{number}-{turn}", 1_000)
            path = write_orders(self.folder / f"orders{number}", ids)
            with Script(PRODUCER, path, url=self.broker.url()) as script:
                ended = self.aborted.is_set
                wait_until(lambda: ended() or script.process.poll() is not None, "its end", 120)  # noqa: B023
                if self.aborted.is_set():
                    return
                status = script.wait()
            stored = re.search(r"(\d+) (?:of \d+ )?orders stored", f"{script.out}\n{script.err}")
            assert stored and (status == 0) == (int(stored[1]) == len(ids)), script
            self.confirmed.update(ids[: int(stored[1])])

    def fail(self, fault: str) -> None:
        """Let one thing go wrong, and mend it."""
        self.faults[fault] += 1
        if fault == "broker killed":
            self.broker.kill()
            self.broker.start()
        elif fault == "broker stopped":
            self.broker.stop()
            self.broker.start()
        else:
            victim = self.consumers.pop(self.draw.randrange(CONSUMERS))
            victim.process.kill()
            victim.wait()
            self.add_consumer()
            self.publish_rubbish(f"RUBBISH-{self.faults[fault]}")

    def publish_rubbish(self, name: str) -> None:
        """Publish a message that has to end in orders.dead."""
        with self.broker.connect() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            properties = pika.BasicProperties(message_id=name, delivery_mode=2)
            channel.basic_publish("", "orders", b"rubbish", properties, mandatory=True)
        self.confirmed.add(name)

    def end(self) -> Dict[str, int]:
        """Let the consumers finish all there is, and count."""
        with self.broker.connect() as connection:
            channel = connection.channel()
            wait_until(lambda: ready(channel) == 0, "an empty queue", 600)
            for script in self.consumers:
                script.signal()
            for script in self.consumers:
                assert script.wait() == 0, script
            left = drain(channel)
            rubbish = sum(name.startswith("RUBBISH") for name in self.confirmed)
            with contextlib.suppress(AssertionError):  # then they are counted as lost
                wait_until(lambda: ready(channel, "orders.dead") >= rubbish, "the dead letters")
            dead = drain(channel, "orders.dead")
        done = self.notes.count()
        return {
            "published and confirmed": len(self.confirmed),
            "processed at least once": len(done),
            "processed more than once": sum(number > 1 for number in done.values()),
            "dead-lettered": len(dead),
            "lost": len(self.confirmed - done.keys() - dead.keys() - left.keys()),
        }

    def clean_up(self) -> None:
        self.ending.set()
        self.aborted.set()
        for script in self.consumers:
            script.process.kill()
            script.wait()


def say(text: str) -> None:
    print(text, flush=True)


def soak(folder: Path, seconds: float, seed: int, calm: bool) -> Dict[str, int]:
    """Run it for so many seconds, but at least until each fault has come once; return the counts."""
    run = Soak(folder, seed)
    with contextlib.ExitStack() as stack:
        stack.callback(run.broker.kill)
        pool = stack.enter_context(ThreadPoolExecutor(PRODUCERS))
        stack.callback(run.clean_up)
        run.start()
        say(f"seed {seed}, {seconds:g} s, RabbitMQ on port {run.broker.port}")
        producers: List[Future[None]] = [pool.submit(run.produce, n) for n in range(PRODUCERS)]
        deadline = time.monotonic() + seconds
        faults = itertools.chain.from_iterable(run.draw.sample(ROUND, len(ROUND)) for _ in itertools.count())
        while time.monotonic() < deadline or not (calm or all(run.faults.values())):
            run.ending.wait(run.draw.uniform(0.2, 1.5))
            if not calm:
                run.fail(next(faults))
            for producer in producers:
                assert producer.running() or producer.result() is None
        run.ending.set()
        for producer in producers:
            producer.result()
        counts = run.end()
    say("  ".join(f"{fault}: {number} times" for fault, number in run.faults.items()))
    for what, number in counts.items():
        say(f"{what + ':':26}{number:8}")
    return counts


def interrupt(signum: int, frame: Any) -> None:
    """Clean up as after Ctrl-C, and let nothing interrupt that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/run soak", description=__doc__)
    parser.add_argument("SECONDS", nargs="?", type=float, default=120, help="default: 120")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), metavar="N")
    parser.add_argument("--calm", action="store_true", help="let nothing fail, to compare")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="orders-soak-") as folder:
            counts = soak(Path(folder), arguments.SECONDS, arguments.seed, arguments.calm)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(counts["lost"] > 0)


if __name__ == "__main__":
    main()
