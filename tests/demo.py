"""Run the main job and show both sides: five orders go out in a blink, and come back.

It uses the RabbitMQ at AMQP_URL if that is set, else a node of its own.
"""

import contextlib
import os

from rig.programs import own_broker, run
from rig.scripts import CONSUMER, PRODUCER, start


def main() -> int:
    """Run the demo; return 0 if all orders were processed."""
    with contextlib.ExitStack() as stack:
        where = os.environ.get("AMQP_URL") or stack.enter_context(own_broker("demo")).url()
        consumer = stack.enter_context(start(CONSUMER, where, label="consumer"))
        producer = stack.enter_context(start(PRODUCER, where, label="producer"))
        if producer.wait() != 0:
            return 1
        consumer.wait_for("Processed", times=5)
        consumer.stop()
    sent = producer.seen("(Stored)")[-1][1] - producer.started
    worked = consumer.seen("(Processed)")[-1][1] - consumer.seen("(Received)")[0][1]
    print(f"demo | 5 orders: the producer took {sent:.2f} s, the consumer {worked:.2f} s")
    return 0


if __name__ == "__main__":
    run(main)
