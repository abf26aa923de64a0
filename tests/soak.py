"""Publish and work off at full speed, kill consumers and broker at random; then count.

Exits with 1 if an order was lost. The seed decides which fault comes when; what it hits
in that moment is the machine's choice, as with any race.
"""

import argparse
import contextlib
import random
import time
from collections import Counter

from rig.broker import Broker, let_new_queues_settle, wait_until
from rig.orders import drain, line, names, put, ready
from rig.programs import own_broker, run
from rig.scripts import PATIENT, Script, producer, telling_consumer

PRODUCERS, CONSUMERS, BATCH = 2, 3, 1_000  # orders of a producer
# The faults, each time in another order.
ROUND = ["consumer killed"] * 6 + ["broker killed", "broker stopped"]


class Soak:
    """One run: who publishes to the broker, and who works from it.

    Of what scripts said that have ended only `stored`, `done` and `rubbish` (what has to end
    in orders.dead) are kept: they say a lot.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker, self.published = broker, 0
        self.producers: list[Script] = []
        self.consumers: list[Script] = []
        self.stored, self.done, self.rubbish = set[str](), Counter[str](), set[str]()

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
        """Kill a consumer, start another one, and send it something that is no order."""
        with self.consumers.pop(number) as victim:
            pass  # it is killed here
        self.done.update(victim.texts("^end (.*)"))
        self.consumers.append(telling_consumer(self.broker))
        self.rubbish.add(f"RUBBISH-{len(self.rubbish)}")
        with self.broker.connect() as connection:
            put(connection.channel(), f"RUBBISH-{len(self.rubbish) - 1}".encode())

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
            left = drain(channel, "orders")
            with contextlib.suppress(AssertionError):  # then they are counted as lost
                wait_until(lambda: ready(channel, "orders.dead") >= len(self.rubbish), "them")
            dead = drain(channel, "orders.dead")
        published = self.stored | self.rubbish
        return {
            "published and confirmed": len(published),
            "processed at least once": len(self.done),
            "processed more than once": sum(number > 1 for number in self.done.values()),
            "dead-lettered": len(dead),
            "lost": len(published - self.done.keys() - dead.keys() - left.keys()),
        }

    def close(self) -> None:
        """End everything at once."""
        with contextlib.ExitStack() as stack:
            for script in self.producers + self.consumers:
                stack.enter_context(script)  # which kills it


def soak(seconds: float, seed: int) -> dict[str, int]:
    """Run it, at least until each fault has come once; return the counts."""
    draw, faults, ahead = random.Random(seed), dict.fromkeys(ROUND, 0), list[str]()
    with own_broker("soak") as (broker, _), contextlib.closing(Soak(broker)) as this:
        print(f"seed {seed}, {seconds:g} s, RabbitMQ on port {broker.port}", flush=True)
        this.consumers += [telling_consumer(broker) for _ in range(CONSUMERS)]
        this.consumers[0].wait_for("Waiting for orders")  # it has declared the queues
        let_new_queues_settle()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not all(faults.values()):
            this.publish_for(draw.uniform(0.2, 1.5))
            ahead = ahead or draw.sample(ROUND, len(ROUND))
            faults[fault := ahead.pop()] += 1
            if fault == "consumer killed":
                this.kill_consumer(draw.randrange(CONSUMERS))
            else:
                (broker.kill if fault == "broker killed" else broker.stop)()
                broker.start()
        counts = this.end()
    print("  ".join(f"{fault}: {number} times" for fault, number in faults.items()))
    for what, number in counts.items():
        print(f"{what + ':':26}{number:8}")
    return counts


def main() -> int:
    """Return 1 if an order was lost."""
    parser = argparse.ArgumentParser(prog="tests/run soak", description=__doc__)
    parser.add_argument("SECONDS", nargs="?", type=float, default=120, help="default: 120")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), metavar="N")
    options = parser.parse_args()
    return int(soak(options.SECONDS, options.seed)["lost"] > 0)


if __name__ == "__main__":
    run(main)
