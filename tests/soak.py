"""Publish and work off at full speed, kill consumers and broker at random; then count.

soak.py [SECONDS]. Exits with 1 if an order was lost.
"""

import contextlib
import itertools
import random
import sys
import time
from collections import Counter

from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.orders import drain, line, names, ready
from rig.programs import own_broker, run
from rig.scripts import PATIENT, Script, producer, telling_consumer

PRODUCERS, CONSUMERS, BATCH = 2, 3, 1_000  # orders of a producer
ROUND = ["broker killed", "consumer killed", "broker stopped", *["consumer killed"] * 5]


class Soak:
    """One run: who publishes to the broker, and who works from it.

    Of what scripts said that have ended only `stored` and `done` are kept: they say a lot.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker, self.published = broker, 0
        self.producers: list[Script] = []
        self.consumers: list[Script] = []
        self.stored, self.done = set[str](), Counter[str]()

    def publish(self, count: int) -> None:
        """Start a producer, with orders of its own."""
        self.published += 1
        orders = map(line, names(f"P{self.published}", count))
        self.producers.append(producer(self.broker, lines=orders, change=PATIENT))

    def collect_stored(self, wait: bool = True) -> None:
        """Note what producers have stored that have ended, or wait until all have."""
        for script in list(self.producers):
            if wait or script.ended():
                self.producers.remove(script)
                with script:
                    assert script.wait(120) == 0, script
                self.stored.update(script.stored)

    def publish_for(self, seconds: float) -> None:
        """Let producers run for so long, one after the other."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.collect_stored(wait=False)
            for _ in range(PRODUCERS - len(self.producers)):
                self.publish(BATCH)
            time.sleep(0.05)

    def kill_consumer(self, number: int) -> None:
        """Kill a consumer, and start another one."""
        with self.consumers.pop(number) as victim:
            pass  # it is killed here
        self.done.update(victim.texts("^end (.*)"))
        self.consumers.append(telling_consumer(self.broker))

    def end(self) -> dict[str, int]:
        """Let the scripts finish all there is, and count."""
        self.collect_stored()
        with self.broker.connect() as connection:
            channel = connection.channel()
            wait_until(lambda: ready(channel) == 0, "an empty queue", 600)
            for script in self.consumers:
                script.wait_for("Waiting for orders")
                script.stop()
                self.done.update(script.texts("^end (.*)"))
            left = drain(channel)
        return {
            "published and confirmed": len(self.stored),
            "processed more than once": sum(number > 1 for number in self.done.values()),
            "lost": len(self.stored - self.done.keys() - left.keys()),
        }

    def close(self) -> None:
        """End everything at once."""
        with contextlib.ExitStack() as stack:
            for script in self.producers + self.consumers:
                stack.enter_context(script)  # which kills it


def soak(seconds: float) -> dict[str, int]:
    """Run it, at least until each fault has come once; return the counts."""
    faults = dict.fromkeys(ROUND, 0)
    with own_broker("soak") as broker, contextlib.closing(Soak(broker)) as this:
        print(f"{seconds:g} s, RabbitMQ on port {broker.port}", flush=True)
        this.consumers += [telling_consumer(broker) for _ in range(CONSUMERS)]
        this.consumers[0].wait_for("Waiting for orders")  # it has declared the queues
        let_new_queues_settle()
        deadline = time.monotonic() + seconds
        for fault in itertools.cycle(ROUND):
            this.publish_for(random.uniform(0.2, 1.5))
            if time.monotonic() > deadline and all(faults.values()):
                break
            faults[fault] += 1
            if fault == "consumer killed":
                this.kill_consumer(random.randrange(CONSUMERS))
            else:
                (broker.kill if fault == "broker killed" else broker.stop)()
                broker.start()
        counts = this.end()
    for what, number in {**faults, **counts}.items():
        print(f"{what + ':':26}{number:8}")
    return counts


def main() -> int:
    """Return 1 if an order was lost."""
    return int(soak(float(sys.argv[1]) if sys.argv[1:] else 120)["lost"] > 0)


if __name__ == "__main__":
    run(main)
