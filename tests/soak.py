"""Publish and work off at full speed, kill consumers and broker at random; then count.

Exits with 1 if an order was lost. The seed decides which fault comes when; what it hits
in that moment is the machine's choice, as with any race.
"""

import argparse
import contextlib
import itertools
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pika

from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.notes import Notes
from rig.orders import drain, names, ready, write_orders
from rig.programs import own_broker, run
from rig.scripts import Script

PRODUCERS, CONSUMERS = 2, 3
# The faults, each time in another order.
ROUND = ["consumer killed"] * 6 + ["broker killed", "broker stopped"]
BATCH = 500  # orders in a file


class Soak:
    """One run: who publishes to the broker and works from it, all files in `folder`."""

    def __init__(self, broker: Broker, folder: Path, seed: int) -> None:
        self.broker, self.folder, self.draw = broker, folder, random.Random(seed)
        self.stored = Notes(folder / "stored")  # what RabbitMQ has confirmed, exactly
        self.done = Notes(folder / "done")  # what consumers have worked off
        self.rubbish: set[str] = set()  # what has to end in orders.dead
        self.consumers: list[Script] = []
        self.faults = dict.fromkeys(ROUND, 0)
        self.ending = threading.Event()  # producers finish the file in hand
        self.aborted = threading.Event()  # they do not

    def start(self) -> None:
        """Have the queues declared, and start the consumers."""
        self.publish("FIRST", 5)
        let_new_queues_settle()
        for _ in range(CONSUMERS):
            self.add_consumer()

    def add_consumer(self) -> None:
        """Start a consumer."""
        self.consumers.append(self.done.consumer(self.broker.url()))

    def produce(self, number: int) -> None:
        """Publish file after file."""
        for turn in itertools.count():
            if self.ending.is_set():
                return
            self.publish(f"P{number}-{turn}", BATCH)

    def publish(self, name: str, count: int) -> None:
        """Have the producer publish a file of orders, and check what it says of it."""
        ids = names(name, count)
        path = write_orders(self.folder / name, ids)
        with self.stored.producer(self.broker.url(), path) as script:
            wait_until(lambda: self.aborted.is_set() or script.ended(), "its end", 120)
            if self.aborted.is_set():
                return
            status = script.wait()
        confirmed = self.stored.count()
        stored = sum(order_id in confirmed for order_id in ids)
        found = re.search(r"(\d+) of \d+ orders stored", script.out)
        assert found and int(found[1]) == stored, script
        assert (status == 0) == (stored == count), script
        path.unlink()

    def fail(self, fault: str) -> None:
        """Let one thing go wrong, and mend it."""
        self.faults[fault] += 1
        if fault == "consumer killed":
            victim = self.consumers.pop(self.draw.randrange(CONSUMERS))
            victim.process.kill()
            victim.wait()
            self.add_consumer()
            self.publish_rubbish(f"RUBBISH-{self.faults[fault]}")
        else:
            (self.broker.kill if fault == "broker killed" else self.broker.stop)()
            self.broker.start()

    def publish_rubbish(self, text: str) -> None:
        """Publish a message that no consumer can read."""
        with self.broker.connect() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("", "orders", text, properties, mandatory=True)
        self.rubbish.add(text)

    def end(self) -> dict[str, int]:
        """Let the consumers finish all there is, and count."""
        with self.broker.connect() as connection:
            channel = connection.channel()
            wait_until(lambda: ready(channel) == 0, "an empty queue", 600)
            for script in self.consumers:
                script.wait_for("Waiting for orders")
                script.stop()
            left = drain(channel)
            with contextlib.suppress(AssertionError):  # then they are counted as lost
                dead_letters = len(self.rubbish)
                wait_until(lambda: ready(channel, "orders.dead") >= dead_letters, "them")
            dead = drain(channel, "orders.dead")
        done = self.done.count()
        confirmed = self.stored.count().keys() | self.rubbish
        return {
            "published and confirmed": len(confirmed),
            "processed at least once": len(done),
            "processed more than once": sum(number > 1 for number in done.values()),
            "dead-lettered": len(dead),
            "lost": len(confirmed - done.keys() - dead.keys() - left.keys()),
        }

    def clean_up(self) -> None:
        """End everything at once."""
        self.ending.set()
        self.aborted.set()
        for script in self.consumers:
            script.process.kill()
            script.wait()


def soak(seconds: float, seed: int) -> dict[str, int]:
    """Run it, at least until each fault has come once; return the counts."""
    with contextlib.ExitStack() as stack:
        broker, folder = stack.enter_context(own_broker("soak"))
        this = Soak(broker, folder, seed)
        pool = stack.enter_context(ThreadPoolExecutor(PRODUCERS))
        stack.callback(this.clean_up)
        this.start()
        about = f"seed {seed}, {seconds:g} s, RabbitMQ on port {broker.port}"
        print(about, flush=True)
        producers = [pool.submit(this.produce, number) for number in range(PRODUCERS)]
        deadline = time.monotonic() + seconds
        faults = itertools.chain.from_iterable(this.draw.sample(ROUND, len(ROUND)) for _ in itertools.count())
        while time.monotonic() < deadline or not all(this.faults.values()):
            this.ending.wait(this.draw.uniform(0.2, 1.5))
            this.fail(next(faults))
            for producer in producers:
                assert producer.running() or producer.result() is None
        this.ending.set()
        for producer in producers:
            producer.result()
        counts = this.end()
    faults_told = [f"{fault}: {number} times" for fault, number in this.faults.items()]
    print("  ".join(faults_told))
    for what, number in counts.items():
        print(f"{what + ':':26}{number:8}")
    return counts


def main() -> int:
    """Return 1 if an order was lost."""
    parser = argparse.ArgumentParser(prog="tests/run soak", description=__doc__)
    add = parser.add_argument
    add("SECONDS", nargs="?", type=float, default=120, help="default: 120")
    add("--seed", type=int, default=random.randrange(1_000_000), metavar="N")
    options = parser.parse_args()
    return int(soak(options.SECONDS, options.seed)["lost"] > 0)


if __name__ == "__main__":
    run(main)
