"""Process the orders in RabbitMQ's queue "orders", one at a time: python3 consumer.py"""

import json
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pika

RABBITMQ = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672"))
QUEUE = "orders"
DEAD = "orders.dead"  # invalid messages, and orders whose work failed TRIES times
TRIES = 60
PAUSE = 5  # seconds; a database can be down for nearly 60 × 5 s
stopping = False


def stop(signal_number: int, _: object) -> None:
    """Python calls this at Ctrl-C and `kill`. In here os.write() is safe, logging is not."""
    global stopping
    stopping = True
    signal.signal(signal_number, signal.SIG_DFL)  # the next such signal kills
    os.write(2, b"Stopping after the current order (a second Ctrl-C kills it)\n")  # 2: stderr


def parse_order(body: bytes) -> dict:
    """Return the order in a message. Raise an exception if it is invalid."""
    order = json.loads(body)
    if not isinstance(order, dict):
        raise ValueError("not a JSON object")
    for field in ("order_id", "customer", "status"):
        if not isinstance(order.get(field), str) or not order[field].strip():
            raise ValueError(f"{field} must be a string, and not blank")
    amount = order.get("amount", 0)
    if type(amount) not in (int, float) or not 0 < amount < 1e15:  # not bool, NaN, absurd
        raise ValueError("amount must be a number above 0 and below 1e15")
    return order


def process_order(order: dict) -> None:
    """Put your own work here (async def would never run). If it fails, raise an exception."""
    # An order can come again, even to two consumers at once. So store a unique order_id in the
    # work's transaction, and return if it is there already. Use timeouts: work must end.
    time.sleep(2)


def store_copy(channel, queue: str, body: bytes, headers: dict) -> None:
    """Publish a message again, to the end of a queue. Wait for RabbitMQ's confirmation."""
    properties = pika.BasicProperties(delivery_mode=2, headers=headers)
    channel.basic_publish("", queue, body, properties, mandatory=True)
    logging.warning(f"Stored a copy in {queue} with {headers}")


def handle(channel, worker: ThreadPoolExecutor, headers: dict, body: bytes) -> None:
    """Process the order in a message. If that fails, store a copy in QUEUE or DEAD."""
    try:
        order = parse_order(body)
        tries = headers.get("tries", 0) + 1  # only copies have "tries"
    except Exception as error:
        store_copy(channel, DEAD, body, {"error": str(error)})
        return
    work = worker.submit(process_order, order.copy())  # in a second thread, on a copy
    while not work.done():
        wait([work], timeout=0.5)  # less if the work ends
        # Send heartbeats. Without them RabbitMQ closes the connection.
        channel.connection.process_data_events()
    failure = work.exception()
    if failure is None:
        logging.info(f"Processed {order['order_id']!r}")
        return
    logging.error(f"{order['order_id']!r} failed, try {tries} of {TRIES}", exc_info=failure)
    if tries < TRIES:
        channel.connection.sleep(PAUSE)  # time.sleep() would send no heartbeats
        store_copy(channel, QUEUE, body, {"tries": tries})  # if requeued, it would come first
    else:
        store_copy(channel, DEAD, body, {"error": repr(failure)[:300]})  # headers are short


def consume_orders() -> None:
    """Handle messages until `stopping`. Raise an exception if RabbitMQ fails."""
    # After an error, `with` waits for the work.
    with ThreadPoolExecutor(1) as worker, pika.BlockingConnection(RABBITMQ) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        channel.queue_declare(DEAD, durable=True)
        channel.confirm_delivery()  # for store_copy()
        channel.basic_qos(prefetch_count=1)  # one unacknowledged message at a time
        logging.info(f"Waiting for orders from {RABBITMQ.host}:{RABBITMQ.port}")
        for method, properties, body in channel.consume(QUEUE, inactivity_timeout=0.5):
            if method and not stopping:  # method is None after 0.5 s
                again = " (redelivered)" if method.redelivered else ""
                logging.info(f"Received{again} {body[:300].decode(errors='replace')!r}")
                handle(channel, worker, properties.headers or {}, body)
                if stopping:
                    channel.cancel()  # otherwise RabbitMQ sends another order after the ack
                # Now RabbitMQ deletes the message. If we crash before, it comes again.
                channel.basic_ack(method.delivery_tag)
            if stopping:
                return
    raise RuntimeError("RabbitMQ has cancelled this consumer: is the queue deleted?")


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
    logging.getLogger("pika").setLevel("CRITICAL")  # we log all errors
    signal.signal(signal.SIGINT, stop)  # Ctrl-C
    signal.signal(signal.SIGTERM, stop)  # kill, docker stop
    while not stopping:
        try:
            consume_orders()
        except Exception as error:
            logging.error(f"RabbitMQ at {RABBITMQ.host}:{RABBITMQ.port}: {error!r}")
            time.sleep(1)
    logging.info("Stopped")


if __name__ == "__main__":
    main()
