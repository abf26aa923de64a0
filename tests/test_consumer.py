"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, List

import pika
import psutil
import pytest
from faults import Network
from support import (
    CONSUMER,
    PRODUCER,
    Broker,
    Script,
    consumer,
    end_with_broken_pipe,
    free_ports,
    messages,
    producer,
    ready,
    wait_until,
)


def order(number: int) -> bytes:
    """Return the body of an order."""
    fields = {"order_id": f"A-{number:04d}", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}
    return json.dumps(fields, ensure_ascii=False).encode()


def publish(channel: Any, *bodies: bytes, **properties: Any) -> None:
    """Declare the queues as the scripts do, and put the bodies into `orders`."""
    sys.path.insert(0, str(CONSUMER.parent))
    from consumer import QUEUES

    for queue, arguments in QUEUES.items():
        channel.queue_declare(queue, durable=True, arguments=arguments)
    channel.tx_select()
    for body in bodies:
        channel.basic_publish("", "orders", body, pika.BasicProperties(delivery_mode=2, **properties))
    channel.tx_commit()


def rest(channel: Any, queue: str = "orders") -> List[Any]:
    """Take what is left in the queue: (redelivered, how often it was given back, order_id) of each."""
    return [
        (method.redelivered, (properties.headers or {}).get("x-delivery-count", 0), json.loads(body)["order_id"])
        for method, properties, body in messages(channel, queue)
    ]


def test_five_orders_take_two_seconds_each(broker: Broker, channel: Any) -> None:
    with consumer(broker, "--count", 5) as script, producer(broker) as sender:
        assert sender.wait() == 0
        assert script.wait() == 0, script
    lines = script.lines["stdout"]
    time_of_day = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(f"{time_of_day} Received ORD-001: Иван Иванов, 5000", lines[0])
    assert [re.sub(f"{time_of_day} |:.*", "", line) for line in lines[:-1]] == [
        f"{what} ORD-00{n}" for n in range(1, 6) for what in ("Received", "Processed")
    ]
    summary = re.fullmatch(r"Processed 5 orders in (\d+\.\d\d) s", lines[-1])
    assert summary and 10 <= float(summary[1]) < 12
    assert script.err == ""
    assert ready(channel) == 0


def test_declares_the_queue_durable_and_quorum(broker: Broker, channel: Any) -> None:
    with consumer(broker) as script:
        wait_until(lambda: _consumers(channel) == 1, "the consumer is there")
        script.signal()
        assert script.wait() == 0
    listed = broker.rabbitctl_output("list_queues", "--quiet", "--no-table-headers", "name", "durable", "type")
    assert sorted(line.split() for line in listed.splitlines()) == [
        ["orders", "true", "quorum"], ["orders.dead", "true", "quorum"]
    ]  # fmt: skip


def _consumers(channel: Any) -> int:
    """Return how many consumers `orders` has; 0 where there is no such queue."""
    try:
        return int(channel.connection.channel().queue_declare("orders", passive=True).method.consumer_count)
    except pika.exceptions.ChannelClosedByBroker:
        return 0


def test_takes_one_order_at_a_time(broker: Broker, channel: Any) -> None:
    publish(channel, order(1), order(2), order(3))
    with consumer(broker) as script:
        script.wait_for("Received A-0001")
        assert ready(channel) == 2
        script.wait_for("Processed A-0001")
        script.wait_for("Received A-0002")
        assert ready(channel) == 1


def test_order_in_hand_is_acknowledged_after_the_work(broker: Broker, channel: Any) -> None:
    publish(channel, order(1))
    with consumer(broker, "--processing-time", 60) as script:
        script.wait_for("Received A-0001")
    wait_until(lambda: ready(channel) == 1, "the killed consumer's order is back")
    with consumer(broker, "--count", 1, "--processing-time", 0) as script:
        assert script.wait() == 0
    assert "Received A-0001 (redelivered): Иван" in script.out


def test_long_work_keeps_heartbeats_alive(broker: Broker, channel: Any) -> None:
    """RabbitMQ closes a connection after two heartbeats without a sign of life: here after two seconds."""
    publish(channel, order(1))
    with consumer(broker, "--count", 1, "--processing-time", 6, url=broker.url(query="?heartbeat=1")) as script:
        assert script.wait() == 0
    assert script.err == "" and "redelivered" not in script.out


@pytest.mark.parametrize("arguments", [
    ["--processing-time", "-1"], ["--processing-time", "nan"], ["--processing-time", "inf"],
    ["--processing-time", "soon"], ["--count", "0"], ["--count", "-1"], ["--count", "1.5"], ["orders.jsonl"],
])  # fmt: skip
def test_wrong_option_is_exit_2(broker: Broker, arguments: List[str]) -> None:
    with consumer(broker, *arguments) as script:
        assert script.wait() == 2
    assert "consumer.py: error:" in script.lines["stderr"][-1]


def test_count_leaves_the_orders_behind_it_untouched(broker: Broker, channel: Any) -> None:
    publish(channel, *map(order, range(6)))
    with consumer(broker, "--count", 3, "--processing-time", 0.05) as script:
        assert script.wait() == 0
    assert re.fullmatch(r"Processed 3 orders in \d+\.\d\d s", script.lines["stdout"][-1])
    assert rest(channel) == [(False, 0, f"A-000{n}") for n in (3, 4, 5)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_order_in_hand_and_touches_no_other(broker: Broker, channel: Any, number: int) -> None:
    publish(channel, *map(order, range(4)))
    with consumer(broker, "--processing-time", 1) as script:
        script.wait_for("Received A-0001")
        script.signal(number)
        assert script.wait() == 0
    assert script.lines["stdout"][-2].endswith("Processed A-0001")
    assert re.fullmatch(r"Processed 2 orders in \d+\.\d\d s", script.lines["stdout"][-1])
    assert rest(channel) == [(False, 0, "A-0002"), (False, 0, "A-0003")]


def test_signal_at_full_speed_touches_no_other_order(broker: Broker, channel: Any) -> None:
    """At no work the signal falls, more often than not, between an acknowledgement and the next delivery."""
    publish(channel, *map(order, range(4000)))
    done = 0
    for _ in range(8):
        with consumer(broker, "--processing-time", 0) as script:
            script.wait_for("Processed A-")
            time.sleep(random.uniform(0, 0.1))  # to hit different moments, not to wait for one
            script.signal(signal.SIGTERM)
            assert script.wait() == 0
        received = re.findall("Received (A-[0-9]+)(.*):", script.out)
        assert [name for name, _ in received] == re.findall("Processed (A-[0-9]+)", script.out)
        assert not any(again for _, again in received)
        done += len(received)
    assert rest(channel) == [(False, 0, f"A-{n:04d}") for n in range(done, 4000)]


def test_signal_to_an_idle_consumer_ends_it_within_a_second(broker: Broker, channel: Any) -> None:
    with consumer(broker) as script:
        wait_until(lambda: _consumers(channel) == 1, "the consumer is there")
        script.signal(signal.SIGTERM)
        assert script.wait(limit=1) == 0
    assert script.out == "Processed 0 orders"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_waiting_for_the_broker_ends_it_within_a_second(number: int) -> None:
    with Script(CONSUMER, url=f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/") as script:
        script.wait_for("No connection", "stderr")
        script.signal(number)
        assert script.wait(limit=1) == 0
    assert script.out == "Processed 0 orders"
    assert len(script.lines["stderr"]) == 1


def test_signal_while_the_broker_does_not_answer_ends_it_within_a_second(broker: Broker) -> None:
    """A connection that is accepted and then ignored: what a frozen broker looks like."""
    with Network(broker.port) as network:
        network.hold_up_at(b"AMQP")  # the first bytes of a connection
        with Script(CONSUMER, url=network.url()) as script:
            assert network.held.wait(60)
            script.signal()
            assert script.wait(limit=1) == 0
    assert script.out == "Processed 0 orders"


def test_second_signal_leaves_at_once_and_gives_the_order_back(broker: Broker, channel: Any) -> None:
    publish(channel, order(1))
    with consumer(broker, "--processing-time", 60) as script:
        script.wait_for("Received A-0001")
        script.signal()
        time.sleep(0.2)  # two signals at the same moment are one
        assert script.process.poll() is None
        script.signal()
        assert script.wait(limit=1) == 130
    wait_until(lambda: ready(channel) == 1, "the order is back")
    assert rest(channel) == [(True, 1, "A-0001")]


NO_ORDERS = [
    b"",
    b" ",
    b"not JSON",
    b"[]",
    b"null",
    b'{"order_id": "A"}',
    order(1).replace(b"5000", b"-5"),
    order(1).replace(b"5000", b'"5000"'),
    order(1).replace(b"5000", b"9" * 5000),
    order(1).replace(b"5000", b"1e999999999999999999999"),
    "{'order_id': 'Ж'}".encode("cp1251"),
    b"[" * 200_000,
    b"0" * 1_000_000,
    bytes(1_000_000),
    bytes(range(256)),
]


def test_what_is_no_order_is_dead_lettered_byte_for_byte(broker: Broker, channel: Any) -> None:
    publish(channel, *NO_ORDERS, order(7), message_id="ID-\x1b[31m\n7", headers={"mine": "kept"}, content_type="text/x")
    with consumer(broker, "--count", 1) as script:
        assert script.wait() == 0
    wait_until(lambda: ready(channel, "orders.dead") == len(NO_ORDERS), "all are dead")
    dead = list(messages(channel, "orders.dead"))
    assert sorted(body for _, _, body in dead) == sorted(NO_ORDERS)
    for _, properties, _ in dead:
        assert properties.headers["mine"] == "kept"
        assert (properties.content_type, properties.message_id) == ("text/x", "ID-\x1b[31m\n7")
        assert properties.delivery_mode == 2
    warnings = script.lines["stderr"]
    assert len(warnings) == len(NO_ORDERS)
    assert all(re.match(r"\d\d:\d\d:\d\d Rejected ID-.*7 to orders.dead: .*", line) for line in warnings)
    assert max(map(len, warnings)) < 600 and "\x1b" not in script.err
    assert re.fullmatch(r"Processed 1 order in \d\.\d\d s", script.lines["stdout"][-1])


def test_order_whose_processing_raises_is_dead_lettered(broker: Broker, channel: Any) -> None:
    publish(channel, order(1), order(2))
    code = (
        "import consumer\n"
        "def process_order(order, channel, seconds):\n"
        "    if order['order_id'] == 'A-0001':\n"
        "        raise RuntimeError('the card was declined')\n"
        "consumer.process_order = process_order\n"
        "consumer.main()\n"
    )
    with Script("-c", code, "--count", 1, url=broker.url(), PYTHONPATH=str(CONSUMER.parent)) as script:
        assert script.wait() == 0, script
    assert "to orders.dead: RuntimeError: the card was declined" in script.err
    assert "Processed A-0002" in script.out and "Processed A-0001" not in script.out
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")
    assert next(messages(channel, "orders.dead"))[2] == order(1)


def test_order_given_back_twenty_times_is_dead_lettered(broker: Broker, channel: Any) -> None:
    publish(channel, order(1))
    for count in range(20):
        assert ready(channel, "orders.dead") == 0
        with broker.connect() as connection:  # a consumer that crashes with the order in its hand
            crashing = connection.channel()
            taken: Any = wait_until(lambda: crashing.basic_get("orders")[0], "the order is there")  # noqa: B023
            assert taken.redelivered == (count > 0)
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")
    assert next(messages(channel, "orders.dead"))[2] == order(1)


def test_dead_letters_may_be_looked_at_and_put_back_for_ever(broker: Broker, channel: Any) -> None:
    publish(channel)
    channel.basic_publish("", "orders.dead", order(1))
    channel.tx_commit()
    looking = channel.connection.channel()
    for _ in range(30):
        method: Any = wait_until(lambda: looking.basic_get("orders.dead")[0], "it is there")
        looking.basic_nack(method.delivery_tag, requeue=True)
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is still there")


def test_waits_for_the_broker_then_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    broker = Broker(tmp_path_factory.mktemp("late"))
    with consumer(broker, "--count", 5, "--processing-time", 0) as script:
        told = script.wait_for("No connection", "stderr", limit=10)
        assert f"127.0.0.1:{broker.port}" in told.string and "Connection refused" in told.string
        try:
            broker.start()
            script.wait_for("Connected to", "stderr")
            with producer(broker) as sender:
                assert sender.wait() == 0
            assert script.wait() == 0, script
        finally:
            broker.kill()
    assert len(script.lines["stderr"]) == 2


def test_connection_lost_in_mid_work_is_made_again(broker: Broker, channel: Any) -> None:
    publish(channel, order(1), order(2))
    with consumer(broker, "--count", 2, "--processing-time", 2) as script:
        script.wait_for("Received A-0001")
        broker.rabbitctl_output("close_all_connections", "a test")
        assert script.wait() == 0, script
    assert "Received A-0001 (redelivered)" in script.out
    assert "Received A-0002:" in script.out
    lost, back = script.lines["stderr"]
    assert f"No connection to RabbitMQ at 127.0.0.1:{broker.port}" in lost and "CONNECTION_FORCED" in lost
    assert f"Connected to RabbitMQ at 127.0.0.1:{broker.port}" in back


@pytest.mark.parametrize("path", [CONSUMER, PRODUCER], ids=lambda path: path.name)
class TestWhatWaitingDoesNotMend:
    """Both scripts say at once what is wrong and what to do, and exit with 1."""

    def told(self, path: Path, url: str) -> str:
        with Script(path, url=url) as script:
            assert script.wait(limit=10) == 1, script
        assert len(script.lines["stderr"]) <= 2 and script.out in ("", "Processed 0 orders")
        return script.err

    def test_wrong_password(self, broker: Broker, path: Path) -> None:
        told = self.told(path, broker.url(password="s3cret"))
        assert "user guest" in told and "ACCESS_REFUSED" in told and "Check the user" in told
        assert "s3cret" not in told

    def test_unknown_vhost(self, broker: Broker, path: Path) -> None:
        told = self.told(path, broker.url(vhost="shop"))
        assert "vhost shop" in told and "rabbitmqctl add_vhost" in told

    @pytest.mark.parametrize("queue", ["orders", "orders.dead"])
    def test_queue_declared_otherwise(self, broker: Broker, channel: Any, path: Path, queue: str) -> None:
        channel.queue_declare(queue, durable=True)
        told = self.told(path, broker.url())
        assert f"queue '{queue}'" in told and f"rabbitmqctl -p / delete_queue {queue}" in told.replace("\n", " ") + " "
        command = told.rpartition("rabbitmqctl ")[2].split()
        broker.rabbitctl_output(*command)
        with consumer(broker) as script:
            wait_until(lambda: _consumers(channel) == 1, "the consumer is there, now that the command has run")
            script.signal()
            assert script.wait() == 0


def test_nodes_are_tried_in_turn(broker: Broker, channel: Any) -> None:
    dead = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    publish(channel, order(1))
    with consumer(broker, "--count", 1, "--processing-time", 0, url=f"{dead},{broker.url()}") as script:
        assert script.wait() == 0, script
    assert script.err == ""


def test_message_id_that_is_no_text_does_not_crash_it(broker: Broker, channel: Any) -> None:
    """pika hands a short string that is no UTF-8 over as bytes, and sends none: so they go in beneath it."""
    publish(channel, b"no order", message_id="@@")
    channel.queue_purge("orders")
    impl = channel.connection.channel()._impl
    properties = pika.BasicProperties(message_id="@@")
    encode = properties.encode
    properties.encode = lambda: [piece.replace(b"@@", b"\xff\xfe") for piece in encode()]
    impl.basic_publish("", "orders", b"no order", properties)
    publish(channel, order(2))
    with consumer(broker, "--count", 1, "--processing-time", 0) as script:
        assert script.wait() == 0, script
    assert "Rejected b'\\xff\\xfe' to orders.dead" in script.err and "Processed A-0002" in script.out


@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_streams_are_no_fault_of_the_orders(broker: Broker, channel: Any, closed: str) -> None:
    publish(channel, *map(order, range(3)))
    command = f'exec "$@" {closed}>&-'
    arguments = ["bash", "-c", command, "bash", sys.executable, CONSUMER, "--count", "3", "--processing-time", "0"]
    with Script(*arguments, url=broker.url(), python=False) as script:
        assert script.wait() == 0, script
    assert ready(channel) == ready(channel, "orders.dead") == 0
    with Script(*arguments[:5], PRODUCER, url=broker.url(), python=False) as sender:
        assert sender.wait() == 0, sender
    assert ready(channel) == 5


def test_connection_limit_is_waited_for(broker: Broker, channel: Any) -> None:
    broker.rabbitctl_output("set_user_limits", "guest", '{"max-connections": 1}')
    try:
        with consumer(broker) as script:
            script.wait_for("No connection.*limit", "stderr")
            broker.rabbitctl_output("clear_user_limits", "guest", "all")
            script.wait_for("Connected", "stderr")
            script.signal()
            assert script.wait() == 0
    finally:
        broker.rabbitctl_output("clear_user_limits", "guest", "all")


def test_failing_declaration_leaves_no_connections_behind(broker: Broker, channel: Any) -> None:
    """A queue that another connection holds for itself is tried again every second."""
    owner = broker.connect()
    try:
        owner.channel().queue_declare("orders.dead", exclusive=True)
        with consumer(broker) as script:
            script.wait_for("No connection.*RESOURCE_LOCKED", "stderr")
            time.sleep(4)  # four more attempts
            connections = psutil.Process(script.process.pid).net_connections()
            assert sum(c.raddr and c.raddr.port == broker.port for c in connections) <= 1
            owner.close()
            script.wait_for("Connected", "stderr")
    finally:
        if owner.is_open:
            owner.close()


def test_closed_standard_output_gives_the_order_back(broker: Broker, channel: Any) -> None:
    publish(channel, order(1))
    assert end_with_broken_pipe(CONSUMER, broker) == (1, b"Cannot write: [Errno 32] Broken pipe\n")
    wait_until(lambda: ready(channel) == 1, "the order is back")
    assert ready(channel, "orders.dead") == 0
