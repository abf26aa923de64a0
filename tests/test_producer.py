"""producer.py as a process, as a user runs it, against a real broker."""

from functools import partial
from signal import SIGINT, SIGTERM

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel as Channel

from rig.changes import attempts, no_pause, orders_are, work_takes
from rig.network import CONNECTION_CLOSE, PUBLISH, Network
from rig.node import LIMIT, Node
from rig.orders import drain, ids, messages, ready_count
from rig.scripts import Program, nowhere, start_consumer, start_producer

SAMPLES = """\
{"order_id": "ORD-001", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
{"order_id": "ORD-002", "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
{"order_id": "ORD-003", "customer": "John Smith", "amount": 320, "status": "pending"}
{"order_id": "ORD-004", "customer": "Пётр Орлов", "amount": 7800, "status": "pending"}
{"order_id": "ORD-005", "customer": "Emma Brown", "amount": 150, "status": "pending"}
"""


def test_stores_five_persistent_orders_and_says_so(node: Node, channel: Channel) -> None:
    with start_producer(node) as producer:
        assert producer.wait() == 0
    stored = list(messages(channel))
    assert [body.decode() for _, _, body in stored] == SAMPLES.splitlines()
    for _, properties, _ in stored:
        assert properties.delivery_mode == 2
        assert properties.content_type == "application/json"
        assert properties.expiration is None
    said = [f"Publishing 5 orders to 127.0.0.1:{node.port}"]
    said += [f"Stored 'ORD-00{number}'" for number in range(1, 6)]
    assert [line[24:] for line in producer.lines] == [f"INFO {text}" for text in said]


def test_other_alphabets_are_readable_in_the_log(node: Node) -> None:
    with start_producer(node, partial(orders_are, order_ids=["ЗАКАЗ-Ж"])) as producer:
        producer.wait_for("Stored 'ЗАКАЗ-Ж'")


# "Stored" is said of orders that RabbitMQ has confirmed, and of no others


@pytest.fixture
def short_queue(shared_node: Node) -> str:
    """The URL of a vhost in which an operator's policy limits the queue to 200 messages."""
    url = shared_node.url(vhost="short")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete("orders")
    return url


def test_refused_orders_are_not_called_stored(short_queue: str) -> None:
    orders = ids("A", 300)
    changes = (partial(orders_are, order_ids=orders), partial(attempts, number=3))
    with start_producer(short_queue, *changes) as producer:
        assert producer.wait() == 1
    with pika.BlockingConnection(pika.URLParameters(short_queue)) as connection:
        stored = ready_count(connection.channel())
    assert 200 <= stored < 300
    assert producer.stored == orders[:stored]
    assert producer.count("NackError") == 3
    assert producer.lines[-1].endswith(f": {orders[stored:]}"), "those that are not confirmed"


def test_refused_orders_are_published_once_there_is_room(short_queue: str) -> None:
    orders = ids("A", 300)
    with start_producer(short_queue, partial(orders_are, order_ids=orders)) as producer:
        producer.wait_for("NackError", times=2)
        assert len(producer.process.net_connections()) <= 1, "each failed attempt has hung up"
        with start_consumer(short_queue, work_takes) as consumer:
            assert producer.wait() == 0
            consumer.wait_for("Processed 'A-00300'")
    assert consumer.processed == producer.stored == orders


def test_orders_for_a_deleted_queue_are_published_again(node: Node, channel: Channel) -> None:
    orders = ids("A", 60)
    with Network(node.port) as network:
        network.pause = 0.05  # or it is done too early
        with start_producer(network, partial(orders_are, order_ids=orders)) as producer:
            producer.wait_for("Stored", times=3)
            # An order that is under way when its queue goes may bring another error: hold it up.
            network.hold_up_at(PUBLISH)
            assert network.held.wait(LIMIT)
            channel.queue_delete("orders")
            network.pause = 0
            network.release()
            assert producer.wait() == 0
    assert producer.count("UnroutableError") == 1
    assert producer.stored == orders
    left = list(drain(channel, "orders"))
    assert left and left == orders[-len(left) :], "only those from before the deletion are gone"


# Its end


def test_gives_up_after_thirty_attempts_and_names_what_is_not_confirmed() -> None:
    with start_producer(nowhere(), no_pause) as producer:
        assert producer.wait() == 1
    assert producer.count("ERROR .*ConnectionRefusedError") == 30
    assert len(producer.lines) == 32, "a line each, the first and the last one"
    names = [f"ORD-00{number}" for number in range(1, 6)]
    assert producer.lines[-1].endswith(f"RabbitMQ may have stored the first of these): {names}")


def test_lost_connection_after_the_last_confirmation_is_no_failure(
    node: Node, channel: Channel
) -> None:
    with Network(node.port) as network:
        network.cut_at = CONNECTION_CLOSE
        with start_producer(network, partial(attempts, number=1)) as producer:
            assert producer.wait() == 0
        assert (network.connections, network.cuts) == (1, 1)
    assert len(producer.stored) == 5
    assert drain(channel, "orders") == dict.fromkeys(producer.stored, 1)


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_signal_ends_it_at_once_without_a_traceback(node: Node, number: int) -> None:
    orders = ids("A", 1_500)
    with Network(node.port) as network:
        network.pause = 0.005  # or it may be done before the signal comes
        with start_producer(network, partial(orders_are, order_ids=orders)) as producer:
            producer.wait_for("Stored", times=20)
            producer.signal(number)
            assert producer.wait() == -number
    assert len(producer.stored) < 1_500
    assert "Traceback" not in producer.out


# Orders of one's own


def test_publish_takes_orders_of_ones_own(node: Node, channel: Channel) -> None:
    """As README says: with any fields more. The list is empty afterwards."""
    order = '{"order_id": "A", "customer": "B", "amount": 5, "status": "new", "items": ["x"]}'
    code = f"import producer\nmine = [{order}]\nproducer.publish(mine)\nassert mine == []"
    with Program("-c", code, environment={"AMQP_URL": node.url()}) as program:
        assert program.wait() == 0
    assert program.lines == [], "a program without a log of its own sees none"
    assert [body.decode() for _, _, body in messages(channel)] == [order]


def test_publish_raises_what_json_cannot_write(node: Node, channel: Channel) -> None:
    """A Decimal, say, as README says: sent as a string, it would be a dead letter."""
    code = "import decimal, producer\nproducer.publish([{'amount': decimal.Decimal(5)}])"
    with Program("-c", code, environment={"AMQP_URL": node.url()}) as program:
        assert program.wait() == 1
    assert program.count("^TypeError: Object of type Decimal") == 1
    assert list(messages(channel)) == []
