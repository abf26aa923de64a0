"""Run the main job and show both sides: five orders go out in a blink, and come back.

It uses the RabbitMQ at AMQP_URL if nobody uses the queue there, else a node of its own.
"""

import contextlib
import os

import pika

from rig.broker import Connection
from rig.orders import counts
from rig.programs import own_broker, run
from rig.scripts import CONSUMER, PRODUCER, start


def is_unused(url: str) -> bool:
    """Tell whether RabbitMQ lets us in, and has no order and no consumer in the queue."""
    try:
        with Connection(pika.URLParameters(url)) as connection:
            found = counts(connection.channel())
            return not (found.message_count or found.consumer_count)
    except pika.exceptions.ChannelClosedByBroker as error:
        return bool(error.reply_code == 404)  # there is no such queue yet
    except Exception:  # pika raises many kinds
        return False


def main() -> int:
    """Run the demo; return 0 if all orders were processed."""
    url = os.environ.get("AMQP_URL", "amqp://localhost")
    with contextlib.ExitStack() as stack:
        if not is_unused(url):
            print("demo | starting a RabbitMQ for this demo only", flush=True)
            broker, _ = stack.enter_context(own_broker("demo"))
            url = broker.url()
        consumer = stack.enter_context(start(CONSUMER, url, label="consumer"))
        producer = stack.enter_context(start(PRODUCER, url, label="producer"))
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
