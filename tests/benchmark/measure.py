"""Ours beside what people would use instead: each a process of its own, on the same queues."""

import argparse
import sys
from itertools import product

from rig.broker import Broker, wait_until
from rig.orders import QUEUES, line, names, put
from rig.programs import own_broker, progress, run, versions
from rig.scripts import PRODUCER, TESTS, Script

PEERS = TESTS / "benchmark/peers.py"
# Not PROCESSING_TIME=0: time.sleep(0) takes 0.08 ms an order.
CONSUMER = "import consumer as c; c.process_order = lambda order: None; c.main()"
OURS = {"Stored": (PRODUCER, "/dev/stdin"), "Processed": ("-c", CONSUMER)}
# What we reach at least of a peer's rate, if that writes no log line; ours writes all of them.
LEAST = {
    "Stored": {"pika, confirm_delivery": 0.85},
    "Processed": {"pika, the tutorial's worker": 0.55, "aio-pika, in a thread": 0.85},
}


def measure(broker: Broker, event: str, ids: list[str], command: tuple[object, ...]) -> float:
    """Return the orders a second, from the first one to the last by the log's clock."""
    bodies = [line(order) for order in ids]
    with broker.connect() as connection:
        channel = connection.channel()
        for queue in QUEUES:
            channel.queue_delete(queue)
        put(channel, *bodies if event == "Processed" else [])
    with Script(*command, AMQP_URL=broker.url(), stdin=b"\n".join(bodies)) as script:
        last = f"{event} '{ids[-1]}'"
        wait_until(lambda: script.ended() or last in "".join(script.lines[-9:]), last, 900)
    moments = [moment for _, moment in script.seen(f"({event}) ")]
    assert len(moments) in (2, len(ids)), script
    return len(ids) / (moments[-1] - moments[0])


def main() -> None:
    """Measure the ways in turn, so that a slow minute hits them all; print Markdown."""
    parser = argparse.ArgumentParser(prog="tests/run benchmark", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if ours falls short of a bound")
    check, short = parser.parse_args().check, []
    with own_broker("benchmark") as broker:
        print(f"{versions(broker)}. Each figure is the best of five rounds in turn.")
        for event, size in ("Stored", 5_000), ("Processed", 3_000):
            ways: dict[tuple[str, str], tuple[object, ...]] = {("ours", "all"): OURS[event]}
            for peer, lines in product(LEAST[event], ("all", "none")):
                ways[peer, lines] = (PEERS, event, peer, lines)
            best = dict.fromkeys(ways, 0.0)
            for number, way in product(range(1, 6), ways):
                progress(f"{event}, round {number}: {way}")
                rate = measure(broker, event, names("ORD", size), ways[way])
                best[way] = max(best[way], rate)
            print(f"\n| {event}, {size:,} orders | log lines | orders/s | ours / it |")
            print("|---|---|---|---|")
            for (name, lines), rate in best.items():
                ratio, least = best["ours", "all"] / rate, LEAST[event].get(name, 0.0)
                print(f"| {name} | {lines} | {rate:,.0f} | {ratio:.2f} |", flush=True)
                if lines == "none" and ratio < least:
                    short.append(f"{event}: {ratio:.2f} of {name}, at least {least} was expected")
    if check and short:
        sys.exit("\n".join(short))


if __name__ == "__main__":
    run(main)
