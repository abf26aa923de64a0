"""consumer.py as a process, as a user runs it, against a real broker."""

import json
import random
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Iterator, List

import pika
import psutil
import pytest

from rig.broker import Broker, free_ports, wait_until
from rig.network import Network
from rig.orders import messages, ready
from rig.scripts import (
    CONSUMER,
    PRODUCER,
    Script,
    consumer,
    end_with_broken_pipe,
    nowhere,
    patched,
    producer,
)


def order(number: int) -> bytes:
    """Return the body of an order."""
    fields = {
        "order_id": f"A-{number:04d}",
        "customer": "Иван Иванов",
        "amount": 5000,
        "status": "pending",
    }
    return json.dumps(fields, ensure_ascii=False).encode()


def publish(channel: Any, *bodies: bytes, **properties: Any) -> None:
    """Declare the queues as the scripts do, and put the bodies into `orders`."""
    sys.path.insert(0, str(CONSUMER.parent))
    from consumer import QUEUES

    for queue, arguments in QUEUES.items():
        channel.queue_declare(queue, durable=True, arguments=arguments)
    channel.tx_select()
    for body in bodies:
        channel.basic_publish(
            "", "orders", body, pika.BasicProperties(delivery_mode=2, **properties)
        )
    channel.tx_commit()


def rest(channel: Any, queue: str = "orders") -> List[Any]:
    """Take what is left in the queue: (redelivered, how often it was given back,
    order_id) of each.
    """
    return [
        (
            method.redelivered,
            (properties.headers or {}).get("x-delivery-count", 0),
            json.loads(body)["order_id"],
        )
        for method, properties, body in messages(channel, queue)
    ]


def test_five_orders_take_two_seconds_each(broker: Broker, channel: Any) -> None:
    with consumer(broker, "--count", 5) as script, producer(broker) as sender:
        assert sender.wait() == 0
        assert script.wait() == 0, script
    lines = script.lines["stdout"]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    texts = [line[9:] for line in lines]
    assert re.match("Waiting for orders from RabbitMQ at guest@127.0.0.1:", texts[0])
    assert str(broker.port) in texts[0] and "Ctrl-C" in texts[0]
    assert texts[1] == "Received ORD-001: 'Иван Иванов', 5000"
    assert [re.sub("[:(].*", "", text).strip() for text in texts[1:-1]] == [
        f"{what} ORD-00{n}" for n in range(1, 6) for what in ("Received", "Processed")
    ]
    assert texts[-1] == "Stopped"
    assert 10 <= seconds_of(script, 5) < 12
    assert script.err == ""
    assert ready(channel) == 0


def seconds_of(script: Script, count: int) -> float:
    """Return the time that the consumer gives for so many orders."""
    noun = "order" if count == 1 else "orders"
    times = re.findall(rf"\({count} {noun} in (\d+\.\d\d) s\)$", script.out, re.M)
    assert len(times) == 1, script
    return float(times[0])


def test_time_does_not_count_what_is_idle(broker: Broker, channel: Any) -> None:
    """Two runs of the producer, in between of which the consumer has nothing to do."""
    publish(channel, order(1), order(2))
    with consumer(broker, "--processing-time", 0.2) as script:
        script.wait_for("Processed A-0002")
        before = psutil.Process(script.process.pid).cpu_times().user
        time.sleep(2)  # the idle time: much longer than the work
        after = psutil.Process(script.process.pid).cpu_times().user
        publish(channel, order(3), order(4), order(5))
        script.wait_for("Processed A-0005")
        script.signal()
        assert script.wait() == 0
    totals = re.findall(r"\((\d) orders? in (\d+\.\d\d) s\)", script.out)
    assert [int(count) for count, _ in totals] == [1, 2, 1, 2, 3]
    assert 0.4 <= float(totals[1][1]) < 1.4
    assert 0.6 <= float(totals[4][1]) < 1.6
    assert after - before < 0.3, "it keeps a core busy while it waits"


def test_declares_the_queue_durable_and_quorum(broker: Broker, channel: Any) -> None:
    with consumer(broker) as script:
        wait_until(lambda: _consumers(channel) == 1, "the consumer is there")
        script.signal()
        assert script.wait() == 0
    listed = broker.rabbitctl_output(
        "list_queues", "--quiet", "--no-table-headers", "name", "durable", "type"
    )
    assert sorted(line.split() for line in listed.splitlines()) == [
        ["orders", "true", "quorum"], ["orders.dead", "true", "quorum"]
    ]  # fmt: skip


def _consumers(channel: Any) -> int:
    """Return how many consumers `orders` has; 0 where there is no such queue."""
    try:
        return int(
            channel.connection.channel()
            .queue_declare("orders", passive=True)
            .method.consumer_count
        )
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


def test_order_in_hand_is_acknowledged_after_the_work(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1))
    with consumer(broker, "--processing-time", 60) as script:
        script.wait_for("Received A-0001")
    wait_until(lambda: ready(channel) == 1, "the killed consumer's order is back")
    with consumer(broker, "--count", 1, "--processing-time", 0) as script:
        assert script.wait() == 0
    assert "Received A-0001 (redelivered): 'Иван" in script.out


def test_work_that_blocks_is_done_once(broker: Broker, channel: Any) -> None:
    """RabbitMQ closes a connection that is silent for two heartbeats, here 2 s."""
    publish(channel, order(1), order(2))
    changes = "consumer.process_order = lambda order: consumer.time.sleep(6)"
    url = broker.url(query="?heartbeat=1")
    with patched("consumer", changes, "--count", 2, url=url) as script:
        assert script.wait() == 0, script
    assert script.err == "" and "redelivered" not in script.out
    assert len(re.findall("Received", script.out)) == 2
    assert ready(channel) == 0


def test_next_order_waits_for_work_whose_connection_is_lost(
    broker: Broker, channel: Any
) -> None:
    """The work cannot be interrupted: it goes on, and the order comes again."""
    publish(channel, order(1), order(2))
    changes = (
        "def process_order(order):\n"
        "    consumer.say('begin ' + order['order_id'])\n"
        "    consumer.time.sleep(4)\n"
        "    consumer.say('end ' + order['order_id'])\n"
        "consumer.process_order = process_order"
    )
    with Network(broker.port) as network:
        url = network.url()
        with patched("consumer", changes, "--count", 2, url=url) as script:
            script.wait_for("begin A-0001")
            network.cut()
            script.wait_for("end A-0001")
            assert script.wait() == 0, script
    assert script.out.index("end A-0001") < script.out.rindex("Waiting for orders")
    work = re.findall("(begin|end) (A-000.)", script.out)
    once = [("begin", "A-0001"), ("end", "A-0001")]
    again = [("begin", "A-0001"), ("end", "A-0001")]
    assert work == [*once, *again, ("begin", "A-0002"), ("end", "A-0002")]
    assert re.findall(r"Processed (\S+)", script.out) == ["A-0001", "A-0002"]
    assert "Received A-0001 (redelivered)" in script.out


@pytest.mark.parametrize("arguments", [
    ["--processing-time", "-1"], ["--processing-time", "nan"], ["--processing-time", "inf"],  # noqa: E501
    ["--processing-time", "soon"], ["--count", "0"], ["--count", "-1"], ["--count", "1.5"], ["orders.jsonl"],  # noqa: E501
])  # fmt: skip
def test_wrong_option_is_exit_2(broker: Broker, arguments: List[str]) -> None:
    with consumer(broker, *arguments) as script:
        assert script.wait() == 2
    assert "consumer.py: error:" in script.lines["stderr"][-1]


def test_count_leaves_the_orders_behind_it_untouched(
    broker: Broker, channel: Any
) -> None:
    publish(channel, *map(order, range(6)))
    with consumer(broker, "--count", 3, "--processing-time", 0.05) as script:
        assert script.wait() == 0
    assert "(3 orders in " in script.lines["stdout"][-2]
    assert rest(channel) == [(False, 0, f"A-000{n}") for n in (3, 4, 5)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_order_in_hand_and_touches_no_other(
    broker: Broker, channel: Any, number: int
) -> None:
    publish(channel, *map(order, range(4)))
    with consumer(broker, "--processing-time", 1) as script:
        script.wait_for("Received A-0001")
        script.signal(number)
        assert script.wait() == 0
    assert "Processed A-0001 (2 orders in " in script.lines["stdout"][-2]
    assert script.lines["stdout"][-1].endswith(" Stopped")
    assert rest(channel) == [(False, 0, "A-0002"), (False, 0, "A-0003")]


def test_signal_at_full_speed_touches_no_other_order(
    broker: Broker, channel: Any
) -> None:
    """Without work, it mostly comes between acknowledgement and next delivery."""
    publish(channel, *map(order, range(4000)))
    done = 0
    for _ in range(8):
        with consumer(broker, "--processing-time", 0) as script:
            script.wait_for("Processed A-")
            time.sleep(random.uniform(0, 0.1))  # to hit different moments
            script.signal(signal.SIGTERM)
            assert script.wait() == 0
        received = re.findall("Received (A-[0-9]+)(.*):", script.out)
        assert [name for name, _ in received] == re.findall(
            "Processed (A-[0-9]+)", script.out
        )
        assert not any(again for _, again in received)
        done += len(received)
    assert rest(channel) == [(False, 0, f"A-{n:04d}") for n in range(done, 4000)]


def test_signal_to_an_idle_consumer_ends_it_within_a_second(
    broker: Broker, channel: Any
) -> None:
    with consumer(broker) as script:
        wait_until(lambda: _consumers(channel) == 1, "the consumer is there")
        script.signal(signal.SIGTERM)
        assert script.wait(limit=1) == 0
    waiting, stopped = script.lines["stdout"]
    assert "Waiting for orders" in waiting and stopped.endswith(" Stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_waiting_for_the_broker_ends_it_before_the_next_try(
    number: int,
) -> None:
    with Script(CONSUMER, url=nowhere()) as script:
        script.wait_for("trying again every second", "stderr")
        script.signal(number)
        assert script.wait(limit=5) == 0
    (stopped,) = script.lines["stdout"]
    assert stopped.endswith(" Stopped")
    assert len(script.lines["stderr"]) == 1


def test_signal_while_the_broker_does_not_answer_ends_it_with_the_attempt(
    broker: Broker,
) -> None:
    """A connection that is accepted and then ignored: this is a frozen broker."""
    with Network(broker.port) as network:
        network.hold_up_at(b"AMQP")  # the first bytes of a connection
        with Script(CONSUMER, url=network.url("?stack_timeout=3")) as script:
            assert network.held.wait(60)
            script.signal()
            assert script.wait() == 0
    assert script.out.endswith(" Stopped")


def test_signal_while_connecting_lets_it_take_no_order(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1))
    with Network(broker.port) as network:
        network.hold_up_at(b"AMQP")  # the first bytes of a connection
        with Script(CONSUMER, url=network.url()) as script:
            assert network.held.wait(60)
            script.signal()
            time.sleep(0.2)  # the signal is there before the connection
            network.release()
            assert script.wait() == 0
    (stopped,) = script.lines["stdout"]
    assert stopped.endswith(" Stopped")
    assert rest(channel) == [(False, 0, "A-0001")]


def test_second_signal_while_the_broker_does_not_answer_ends_it_at_once(
    broker: Broker,
) -> None:
    """Each outage is told, and the second time the broker does not answer any more."""
    with Network(broker.port) as network, Script(CONSUMER, url=network.url()) as script:
        script.wait_for("Waiting for orders")
        network.cut()
        wait_until(lambda: script.out.count("Waiting") == 2, "it is back")
        network.hold_up_at(b"AMQP")
        network.cut()
        assert network.held.wait(60)
        script.signal()
        time.sleep(0.2)  # two signals at the same moment are one
        assert script.process.poll() is None
        script.signal()
        assert script.wait(limit=1) == 130
    assert len(re.findall("trying again every second", script.err)) == 2


def test_second_signal_leaves_at_once_and_gives_the_order_back(
    broker: Broker, channel: Any
) -> None:
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


def test_what_is_no_order_is_dead_lettered_byte_for_byte(
    broker: Broker, channel: Any
) -> None:
    publish(
        channel,
        *NO_ORDERS,
        order(7),
        message_id="ID-\x1b[31m\n7",
        headers={"mine": "kept"},
        content_type="text/x",
    )
    with consumer(broker, "--count", 1) as script:
        assert script.wait() == 0
    wait_until(lambda: ready(channel, "orders.dead") == len(NO_ORDERS), "all are dead")
    dead = list(messages(channel, "orders.dead"))
    assert sorted(body for _, _, body in dead) == sorted(NO_ORDERS)
    for _, properties, _ in dead:
        assert properties.headers["mine"] == "kept"
        assert (properties.content_type, properties.message_id) == (
            "text/x",
            "ID-\x1b[31m\n7",
        )
        assert properties.delivery_mode == 2
    warnings = script.lines["stderr"]
    assert len(warnings) == len(NO_ORDERS)
    assert all(
        re.match(r"\S{8} Rejected message 'ID-.*7' to orders.dead: ValueError\(", line)
        for line in warnings
    )
    assert max(map(len, warnings)) < 600 and "\x1b" not in script.err
    assert re.search(r"Processed A-0007 \(1 order in \d\.\d\d s\)", script.out)


def test_order_whose_processing_raises_is_dead_lettered(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1), order(2))
    changes = (
        "def process_order(order):\n"
        "    if order['order_id'] == 'A-0001':\n"
        "        raise RuntimeError('the card was declined')\n"
        "consumer.process_order = process_order"
    )
    with patched("consumer", changes, "--count", 1, url=broker.url()) as script:
        assert script.wait() == 0, script
    assert "to orders.dead: RuntimeError('the card was declined')" in script.err
    assert "Processed A-0002" in script.out and "Processed A-0001" not in script.out
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")
    assert next(messages(channel, "orders.dead"))[2] == order(1)


def test_work_that_changes_the_order_is_acknowledged(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1))
    changes = "consumer.process_order = lambda order: order.clear()"
    with patched("consumer", changes, "--count", 1, url=broker.url()) as script:
        assert script.wait() == 0, script
    assert "Processed A-0001" in script.out and script.err == ""
    assert ready(channel) == ready(channel, "orders.dead") == 0


def take(get: Any, queue: str) -> Any:
    """Get a message, and return what RabbitMQ says of it; None if there is none."""
    return get(queue)[0]


def test_order_given_back_twenty_times_is_dead_lettered(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1))
    for count in range(20):
        assert ready(channel, "orders.dead") == 0
        # A consumer that crashes with the order in its hand.
        with broker.connect() as connection:
            get = connection.channel().basic_get
            taken: Any = wait_until(partial(take, get, "orders"), "the order")
            assert taken.redelivered == (count > 0)
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")
    assert next(messages(channel, "orders.dead"))[2] == order(1)


def test_dead_letters_may_be_looked_at_and_put_back_for_ever(
    broker: Broker, channel: Any
) -> None:
    publish(channel)
    channel.basic_publish("", "orders.dead", order(1))
    channel.tx_commit()
    looking = channel.connection.channel()
    for _ in range(30):
        look = partial(take, looking.basic_get, "orders.dead")
        method: Any = wait_until(look, "it is there")
        looking.basic_reject(method.delivery_tag, requeue=True)
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is still there")


def test_waits_for_the_broker_then_works(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    broker = Broker(tmp_path_factory.mktemp("late"))
    broker.port = free_ports(1)[0]
    with consumer(broker, "--count", 5, "--processing-time", 0) as script:
        told = script.wait_for("trying again every second", "stderr", limit=10)
        assert f"RabbitMQ at guest@127.0.0.1:{broker.port}: " in told.string
        assert "Connection refused" in told.string
        try:
            broker.start()
            script.wait_for(f"Waiting for orders.* guest@127.0.0.1:{broker.port}")
            with producer(broker) as sender:
                assert sender.wait() == 0
            assert script.wait() == 0, script
        finally:
            broker.kill()
    assert len(script.lines["stderr"]) == 1


def test_connection_lost_in_mid_work_is_made_again(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1), order(2))
    with Network(broker.port) as network:
        url = network.url()
        with consumer(broker, "--count", 2, "--processing-time", 2, url=url) as script:
            script.wait_for("Received A-0001")
            network.cut()
            assert script.wait() == 0, script
    assert "Received A-0001 (redelivered)" in script.out
    assert "Received A-0002:" in script.out
    assert len(re.findall("Processed", script.out)) == 2
    (lost,) = script.lines["stderr"]
    assert f"RabbitMQ at guest@127.0.0.1:{network.port}: " in lost
    assert lost.endswith("; trying again every second")
    assert len(re.findall("Waiting for orders", script.out)) == 2


def test_both_try_again_after_a_pause(broker: Broker) -> None:
    with Network(broker.port) as network, Network(broker.port) as other:
        network.cut_at = other.cut_at = b"AMQP"
        with Script(CONSUMER, url=network.url()) as script, Script(
            PRODUCER, url=other.url()
        ) as sender:
            script.wait_for("trying again", "stderr")
            sender.wait_for("trying again", "stderr")
            time.sleep(2.5)
        assert 2 <= network.connections <= 5
        assert 2 <= other.connections <= 5


@pytest.mark.parametrize("path", [CONSUMER, PRODUCER], ids=lambda path: path.name)
def test_host_that_cannot_exist_is_told(path: Path) -> None:
    """Its name is too long: no AMQPError, no OSError."""
    with Script(path, url=f"amqp://{'x' * 70}") as script:
        script.wait_for("RabbitMQ at .*x:5672: .*trying again", "stderr")
        script.signal()
        script.wait()
    assert "Traceback" not in script.err


@pytest.mark.parametrize("path", [CONSUMER, PRODUCER], ids=lambda path: path.name)
class TestWhatWaitingDoesNotMend:
    """Both scripts say at once what is wrong and what to do, and exit with 1."""

    def told(self, path: Path, url: str) -> str:
        with Script(path, url=url) as script:
            assert script.wait(limit=10) == 1, script
        assert len(script.lines["stderr"]) <= 2 and script.out == ""
        return script.err

    def test_wrong_password(self, broker: Broker, path: Path) -> None:
        told = self.told(path, broker.url(password="s3cret"))
        assert f"RabbitMQ at guest@127.0.0.1:{broker.port}: " in told
        assert "ACCESS_REFUSED" in told and "Check the user" in told
        assert "s3cret" not in told

    def test_unknown_vhost(self, broker: Broker, path: Path) -> None:
        told = self.told(path, broker.url(vhost="shop"))
        assert "vhost shop" in told and "rabbitmqctl add_vhost" in told

    @pytest.mark.parametrize("queue", ["orders", "orders.dead"])
    @pytest.mark.parametrize(
        "arguments", [{}, {"x-queue-type": "quorum", "x-delivery-limit": 7}]
    )
    def test_queue_declared_otherwise(
        self, broker: Broker, channel: Any, path: Path, queue: str, arguments: Any
    ) -> None:
        channel.queue_declare(queue, durable=True, arguments=arguments)
        told = self.told(path, broker.url())
        assert f"queue '{queue}'" in told
        assert told.endswith("rabbitmqctl delete_queue NAME")
        command = told.rpartition("rabbitmqctl ")[2].replace("NAME", queue)
        broker.rabbitctl_output(*command.split())
        with consumer(broker) as script:
            wait_until(
                lambda: _consumers(channel) == 1,
                "the consumer is there, now that the command has run",
            )
            script.signal()
            assert script.wait() == 0


@pytest.fixture(scope="module")
def impatient_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A node that takes an order back after two seconds, and looks every second."""
    settings = "-rabbit consumer_timeout 2000"
    ticks = "-rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
    ticks += " -rabbit dead_letter_worker_publisher_confirm_timeout 1000"
    arguments = {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{settings} {ticks}"}
    node = Broker(tmp_path_factory.mktemp("impatient"), **arguments)
    try:
        yield node.start()
    finally:
        node.kill()


def test_order_taken_back_after_consumer_timeout_is_not_called_deleted(
    impatient_node: Broker,
) -> None:
    """RabbitMQ 4.0 closes the channel for it, and 4.3 cancels the consumer."""
    with producer(impatient_node) as sender:
        assert sender.wait() == 0
    with consumer(impatient_node, "--processing-time", 8) as script:
        # The second text is RabbitMQ's, which pika passes on since 1.5.
        script.wait_for("consumer_timeout|acknowledgement.* timed out", "stderr")
        script.wait_for(r"Received ORD-001 \(redelivered\)")
        assert "Processed" not in script.out


def test_rejected_message_waits_for_its_dead_letter_queue(
    impatient_node: Broker,
) -> None:
    with impatient_node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        publish(channel, b"no order")
        channel.queue_delete("orders.dead")
        with patched(
            "consumer",
            "del consumer.QUEUES[consumer.DEAD_LETTER_QUEUE]",
            url=impatient_node.url(),
        ) as script:
            script.wait_for("Rejected", "stderr")
            time.sleep(1)  # in which it could get lost
        publish(channel)
        wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")


def test_nodes_are_tried_in_turn(broker: Broker, channel: Any) -> None:
    dead = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    publish(channel, order(1))
    with consumer(
        broker, "--count", 1, "--processing-time", 0, url=f"{dead},{broker.url()}"
    ) as script:
        assert script.wait() == 0, script
    assert script.err == ""


def test_order_whose_queue_is_deleted_in_mid_work_is_not_called_processed(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1))
    with consumer(broker, "--processing-time", 1) as script:
        script.wait_for("Received A-0001")
        channel.queue_delete("orders")
        script.wait_for("queue was deleted", "stderr")
        wait_until(lambda: script.out.count("Waiting") == 2, "it is back")
        script.signal()
        assert script.wait() == 0
    assert "Processed" not in script.out


def test_long_order_is_not_shown_in_full(broker: Broker, channel: Any) -> None:
    publish(channel, order(1).replace("Иван".encode(), b"x" * 100_000))
    with consumer(broker, "--count", 1, "--processing-time", 0) as script:
        assert script.wait() == 0, script
    assert "Received A-0001: 'xxx" in script.out
    assert max(map(len, script.lines["stdout"])) < 600


def test_message_id_that_is_no_text_does_not_crash_it(
    broker: Broker, channel: Any
) -> None:
    """pika gives a short string that is no UTF-8 as bytes (and itself sends none)."""
    publish(channel, b"no order", message_id="@@")
    wait_until(lambda: ready(channel) == 1, "it is in the queue")
    channel.queue_purge("orders")
    impl = channel.connection.channel()._impl
    properties = pika.BasicProperties(message_id="@@")
    encode = properties.encode
    properties.encode = lambda: [
        piece.replace(b"@@", b"\xff\xfe") for piece in encode()
    ]
    impl.basic_publish("", "orders", b"no order", properties)
    wait_until(lambda: ready(channel) == 1, "it is there, before an order that follows")
    publish(channel, order(2))
    with consumer(broker, "--count", 1, "--processing-time", 0) as script:
        assert script.wait() == 0, script
    assert "Rejected message b'\\xff\\xfe' to orders.dead" in script.err
    assert "Processed A-0002" in script.out


@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_streams_are_no_fault_of_the_orders(
    broker: Broker, channel: Any, closed: str
) -> None:
    publish(channel, *map(order, range(3)))
    command = f'exec "$@" {closed}>&-'
    arguments = [
        "bash",
        "-c",
        command,
        "bash",
        sys.executable,
        CONSUMER,
        "--count",
        "3",
        "--processing-time",
        "0",
    ]
    with Script(*arguments, url=broker.url(), python=False) as script:
        assert script.wait() == 0, script
    assert ready(channel) == ready(channel, "orders.dead") == 0
    with Script(*arguments[:5], PRODUCER, url=broker.url(), python=False) as sender:
        assert sender.wait() == 0, sender
    assert ready(channel) == 5


@pytest.mark.parametrize("limit", ['{"max-connections": 1}', '{"max-channels": 2}'])
def test_limit_is_waited_for(broker: Broker, channel: Any, limit: str) -> None:
    broker.rabbitctl_output("set_user_limits", "guest", limit)
    try:
        with consumer(broker) as script:
            script.wait_for("limit.*trying again", "stderr")
            broker.rabbitctl_output("clear_user_limits", "guest", "all")
            script.wait_for("Waiting for orders")
            script.signal()
            assert script.wait() == 0
    finally:
        broker.rabbitctl_output("clear_user_limits", "guest", "all")


def test_failing_declaration_leaves_no_connections_behind(
    broker: Broker, channel: Any
) -> None:
    """A queue that another connection holds for itself is tried again every second."""
    owner = broker.connect()
    try:
        owner.channel().queue_declare("orders.dead", exclusive=True)
        with consumer(broker) as script:
            script.wait_for("RESOURCE_LOCKED.*trying again", "stderr")
            time.sleep(4)  # four more attempts
            connections = psutil.Process(script.process.pid).net_connections()
            ports = [c.raddr.port for c in connections if c.raddr]
            assert ports.count(broker.port) <= 1
            owner.close()
            script.wait_for("Waiting for orders")
    finally:
        if owner.is_open:
            owner.close()


def test_pipe_without_a_reader_is_no_fault_of_the_orders(
    broker: Broker, channel: Any
) -> None:
    """Both streams go into a pipe whose reader goes away after the first line."""
    publish(channel, *map(order, range(10)))
    command = f'"{sys.executable}" "{CONSUMER}" --processing-time 0 2>&1 | head -1'
    with Script("bash", "-c", command, url=broker.url(), python=False) as script:
        assert script.wait() == 0, script
    assert "Waiting for orders" in script.out
    wait_until(lambda: _consumers(channel) == 0, "the consumer is gone")
    assert ready(channel, "orders.dead") == 0


def test_exception_that_is_falsy_is_an_error(broker: Broker, channel: Any) -> None:
    publish(channel, order(1), order(2))
    changes = (
        "class Empty(Exception):\n"
        "    __len__ = lambda self: 0\n"
        "def process_order(order):\n"
        "    if order['order_id'] == 'A-0001':\n"
        "        raise Empty\n"
        "consumer.process_order = process_order"
    )
    with patched("consumer", changes, "--count", 1, url=broker.url()) as script:
        assert script.wait() == 0, script
    wait_until(lambda: ready(channel, "orders.dead") == 1, "it is dead")


def test_closed_standard_output_gives_the_order_back(
    broker: Broker, channel: Any
) -> None:
    publish(channel, order(1))
    assert end_with_broken_pipe(CONSUMER, broker) == (
        1,
        b"Cannot write: [Errno 32] Broken pipe\n",
    )
    wait_until(lambda: ready(channel) == 1, "the order is back")
    assert ready(channel, "orders.dead") == 0
