"""Ours beside what people would use instead: whole processes, one node, quorum queues."""

import argparse
import os
from itertools import product
from pathlib import Path
from signal import SIGTERM
from statistics import median

from rig.broker import Broker
from rig.orders import line, names, ready
from rig.programs import own_broker, progress, run, versions
from rig.scripts import PRODUCER, TESTS, Script

FILE, PEERS = "orders.jsonl", TESTS / "benchmark" / "peers" / "peers.py"
# Not PROCESSING_TIME=0: time.sleep(0) takes 0.08 ms an order.
CONSUMER = "import consumer as c; c.process_order = lambda order: None; c.main()"
DRAMATIQ = ("-m", "dramatiq", "benchmark.peers.peers:dramatiq", "-p", "1", "-t", "1")
Way = list[tuple[object, ...]]  # what publishes the file; what drains, if that is measured
PUBLISHING: dict[str, Way] = {
    "producer.py": [(PRODUCER, FILE)],
    "pika, confirm_delivery": [(PEERS, "pika", FILE)],
    "aio-pika, one by one": [(PEERS, "aio_pika", FILE, 1)],
    "aio-pika, 500 at once": [(PEERS, "aio_pika", FILE, 500)],
    "Celery, confirm_publish": [(PEERS, "celery", FILE)],
}
DRAINING: dict[str, Way] = {
    "consumer.py": [(PRODUCER, FILE), ("-c", CONSUMER)],
    "pika, the tutorial's worker": [(PEERS, "pika", FILE), (PEERS, "pika")],
    "aio-pika, in a thread": [(PEERS, "pika", FILE), (PEERS, "aio_pika")],
    "Celery, acks_late": [(PEERS, "celery", FILE), (PEERS, "celery")],
    "Dramatiq": [(PEERS, "dramatiq", FILE), DRAMATIQ],
}


def measure(broker: Broker, python: str, way: Way, orders: int) -> float:
    """Return the seconds from start to last order stored, or from first to last order done."""
    publish, *drain = way
    ids = names("ORD", orders)
    Path(FILE).write_bytes(b"\n".join(map(line, ids)))
    with broker.connect() as connection:
        channel = connection.channel()
        for queue in ("orders", "orders.dead", "orders.DQ", "orders.XQ"):
            channel.queue_delete(queue)
        with Script(*publish, AMQP_URL=broker.url(), python=python) as script:
            while not script.ended():
                connection.sleep(0.2)
            assert script.wait() == 0 and script.texts("Stored '(.*?)'") == ids, script
        if not drain:
            return script.seen("(Stored)")[-1][1] - script.started
        with Script(*drain[0], AMQP_URL=broker.url(), python=python) as script:
            try:
                while len(done := script.seen("(Processed)")) < orders:
                    assert not script.ended(), script
                    connection.sleep(0.2)
                connection.sleep(0.5)  # for the last acknowledgement
            finally:
                script.signal(SIGTERM)  # so that its children end
                script.wait()
        assert ready(channel) == 0, script
        return done[-1][1] - script.seen("(Received)")[0][1]


def main() -> None:
    """Measure the ways in turn, so that a slow minute hits them all; print Markdown."""
    parser = argparse.ArgumentParser(prog="tests/run benchmark", description=__doc__)
    parser.add_argument("--python", required=True, help="one that has the libraries")
    parser.add_argument("--quick", action="store_true", help="few orders, to see that it works")
    parser.add_argument("--repeats", type=int, help="default: 5, or 1 if --quick")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)
    # Dramatiq cannot ask for a quorum queue.
    with own_broker("benchmark", "default_queue_type = quorum\n") as (broker, folder):
        os.chdir(folder)
        # An interrupted worker leaves things in TMPDIR.
        os.environ.update(TMPDIR=str(folder), dramatiq_queue_prefetch="1")
        print(f"{versions(broker)}, {repeats} repeats in turn")
        for title, ways, orders in ("Publish", PUBLISHING, 10_000), ("Drain", DRAINING, 3_000):
            orders //= 20 if options.quick else 1
            costs: dict[str, list[float]] = {name: [] for name in ways}
            for repeat, name in product(range(1, repeats + 1), ways):
                progress(f"{title}, {repeat} of {repeats}: {name}")
                costs[name].append(measure(broker, options.python, ways[name], orders))
            print(f"\n| {title} {orders:,} orders | median, s | min–max, s | time / ours |")
            print("| --- | --- | --- | --- |")
            ours = median(next(iter(costs.values())))
            for name, each in costs.items():
                middle, spread = median(each), f"{min(each):.2f}–{max(each):.2f}"
                print(f"| {name} | {middle:.2f} | {spread} | {middle / ours:.2f} |", flush=True)


if __name__ == "__main__":
    run(main)
