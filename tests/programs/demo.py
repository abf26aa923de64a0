"""Run the main job and show both sides, on a RabbitMQ node of its own."""

from rig.scripts import start_consumer, start_producer
from rig.tools import own_node, run


def main() -> int:
    """Run the demo; return 0 if all orders were processed."""
    with own_node("demo") as node, start_consumer(node, label="consumer") as consumer:
        consumer.wait_for("Waiting for orders")
        with start_producer(node, label="producer") as producer:
            if producer.wait() != 0:
                return 1
        consumer.wait_for("Processed", times=5)
        consumer.stop()
    sent = producer.finished - producer.started
    worked = consumer.moments_of("Processed")[-1] - consumer.moments_of("Received")[0]
    print(f"demo | 5 orders: the producer ran for {sent:.2f} s, the consumer took {worked:.2f} s")
    return 0


if __name__ == "__main__":
    run(main)
