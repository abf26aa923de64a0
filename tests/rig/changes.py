"""The scripts with something put into them: python -m rig.changes CHANGE [ARGUMENTS].

A change is a function here. It says what is put in, and runs the script.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import consumer
import producer

Order = dict[str, Any]


def note(order_id: str) -> None:
    """Write it into the file NOTES."""
    # Once written, it stays so, whatever happens to the process the moment after. The
    # newline before it keeps it apart from a line that a SIGKILL cut short.
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND)
    os.write(file, f"\n{json.dumps(order_id)}\n".encode())
    os.close(file)


def run_consumer(work: Callable[[Order], None]) -> None:
    consumer.process_order = work  # type: ignore[assignment]
    consumer.main()


def noting_consumer() -> None:
    """Notes each order when its work is done, before it is acknowledged."""
    real = consumer.process_order

    def work(order: Order) -> None:
        real(order)
        note(order["order_id"])

    run_consumer(work)


def noting_producer() -> None:
    """Notes each order when RabbitMQ has confirmed it."""
    real = producer.publish

    def publish(channel: Any, order: producer.Order) -> None:
        real(channel, order)
        note(order.order_id)

    producer.publish = publish
    producer.main()


def impatient_producer() -> None:
    """Gives up after three seconds."""
    producer.PATIENCE = 3
    producer.main()


def patient_producer() -> None:
    """Gives up after five minutes, for nodes that boot slowly."""
    producer.PATIENCE = 300
    producer.main()


def failing_consumer() -> None:
    """Fails in three ways at the orders of these names."""

    class Falsy(Exception):
        def __bool__(self) -> bool:
            return False

    def work(order: Order) -> None:
        if order["order_id"] == "RAISES":
            raise RuntimeError("the card was declined")
        if order["order_id"] == "FALSY":
            raise Falsy
        if order["order_id"] == "EXITS":
            sys.exit("out of here")
        order.clear()

    run_consumer(work)


def crashing_consumer() -> None:
    """Dies of the order CRASHES."""

    def work(order: Order) -> None:
        if order["order_id"] == "CRASHES":
            os.kill(os.getpid(), signal.SIGKILL)

    run_consumer(work)


def telling_consumer() -> None:
    """Says when its work of five seconds begins and ends. It fails at FAILS."""

    def work(order: Order) -> None:
        print("begin", order["order_id"], flush=True)
        time.sleep(5)
        print("end", order["order_id"], flush=True)
        if order["order_id"] == "FAILS":
            raise RuntimeError("the card was declined")

    run_consumer(work)


def consumer_without_dead_letter_queue() -> None:
    """Does not declare it."""
    del consumer.QUEUES[consumer.DEAD_LETTER_QUEUE]
    consumer.main()


if __name__ == "__main__":
    globals()[sys.argv.pop(1)]()
