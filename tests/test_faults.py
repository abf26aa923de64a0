"""Pull every plug and count: no order is lost, and few come twice."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rig.broker import Broker, let_new_queues_settle, running
from rig.network import PUBLISH, Network
from rig.orders import drain, line, names, put
from rig.scripts import PATIENT, consumer, producer

SENT, WAITED = names("SENT", 500), names("WAITED", 100)


@pytest.mark.parametrize("end", [Broker.stop, Broker.kill], ids=["stopped", "killed"])
def test_broker_that_goes_down_with_everything_in_flight(
    tmp_path: Path, end: Callable[[Broker], Any]
) -> None:
    """One order is just done, one in hand, 100 wait, and more are being sent."""
    with running(Broker(tmp_path)) as node:
        with node.connect() as connection:
            put(connection.channel(), line("DONE"))
            let_new_queues_settle()
            with consumer(node) as first:
                first.wait_for("Processed 'DONE'")
                first.stop()
            put(connection.channel(), *map(line, ["IN-HAND", *WAITED]))
        time.sleep(1)  # from now on, DONE must not come again
        with Network(node.port) as network:
            network.pause = 0.02  # or the sender is done too early
            with producer(network, lines=map(line, SENT), change=PATIENT) as sender:
                sender.wait_for("Stored", 50)
                with consumer(node, 5) as worker:
                    worker.wait_for("Received 'IN-HAND':")
                    assert not sender.ended() and not worker.processed, "it must be in mid-work"
                    end(node)
                    network.pause = 0
                    node.start()
                    assert sender.wait(120) == 0, sender
                    worker.wait_for(r"Received 'IN-HAND' \(redelivered\): ")
                    worker.stop()
        with node.connect() as connection:
            left = drain(connection.channel(), "orders")
            assert not drain(connection.channel(), "orders.dead")
    assert sender.stored == SENT and sender.seen("(Error|ConnectionClosed|ConnectionReset)")
    assert "DONE" not in left and worker.processed.count("IN-HAND") == 1
    # A killed broker may give one that waited out before it gives IN-HAND back.
    everything = left + Counter(worker.processed)
    assert set(everything) == {"IN-HAND", *WAITED, *SENT}
    twice = [order for order, number in everything.items() if number > 1]
    assert len(twice) <= 1 and set(twice) <= set(SENT), "the order in doubt"


def test_order_taken_back_after_consumer_timeout_comes_again(tmp_path: Path) -> None:
    """RabbitMQ 4.0 closes the channel for it, and 4.3 cancels the consumer."""
    settings = "-rabbit consumer_timeout 2000"  # in ms; and it looks every second
    settings += " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
    broker = Broker(tmp_path, RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=settings)
    slow_once = "work = script.process_order\n"
    slow_once += (
        "script.process_order = lambda order: work(order) or setattr(script, 'PROCESSING_TIME', 0)"
    )
    with running(broker), broker.connect() as connection:
        put(connection.channel(), line("A"), line("B"))
        with consumer(broker, 8, change=slow_once) as script:
            script.wait_for("Processed 'B'")
            script.stop()
        assert not drain(connection.channel())
    first, second, third = script.texts("Received ('.*'.*):")
    assert (first, second, third) == ("'A'", "'A' (redelivered)", "'B'")
    assert script.processed in (["A", "B"], ["A", "A", "B"])  # what 4.0 and 4.3 let it say
    assert len(script.seen("(Channel is closed|timed out|cancelled by RabbitMQ)")) == 1


def test_producer_waits_while_memory_is_short_then_stores_each_once(tmp_path: Path) -> None:
    config = "vm_memory_high_watermark.absolute = 1MB\n"  # it is short from the start
    with running(Broker(tmp_path, config)) as node, Network(node.port) as network:
        network.hold_up_at(PUBLISH)
        with producer(network) as script:
            assert network.held.wait(60)
            network.release()
            time.sleep(5)  # in which to be wrong
            assert not script.ended() and len(script.lines) == 1, script
            node.rabbitctl_output("set_vm_memory_high_watermark", "0.6")
            assert script.wait() == 0, script
        assert len(network.connected) == 1
        with node.connect() as connection:
            assert drain(connection.channel(), "orders") == dict.fromkeys(script.stored, 1)
