"""producer.py as a process, as a user runs it, against a real broker."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Counter, Iterator

import pytest

from rig.broker import Broker, free_ports
from rig.network import CONNECTION_CLOSE, PUBLISH, Network
from rig.notes import Notes
from rig.orders import drain, messages, names, ready, write_orders
from rig.scripts import (
    PRODUCER,
    Script,
    end_with_broken_pipe,
    nowhere,
    patched,
    producer,
)

EXIT_OF_INTERRUPTED = 130


def jsonl(count: int) -> bytes:
    """Return `count` orders as JSON Lines."""
    line = '{"order_id": "A-%06d", "customer": "Иван Иванов", "amount": %d.50, "status": "pending"}\n'  # noqa: E501
    return "".join(line % (n, n + 1) for n in range(count)).encode()


def test_publishes_five_sample_orders(broker: Broker, channel: Any) -> None:
    with producer(broker) as script:
        assert script.wait() == 0
    orders = [json.loads(body) for _, _, body in messages(channel, "orders")]
    assert [order["order_id"] for order in orders] == [
        f"ORD-00{n}" for n in range(1, 6)
    ]
    assert {order["status"] for order in orders} == {"pending"}
    assert sum(isinstance(order["amount"], float) for order in orders) == 1
    customers = "".join(order["customer"] for order in orders)
    assert re.search("[а-я]", customers) and re.search("[a-z]", customers)
    *stored, last = script.lines["stdout"]
    assert [line[9:] for line in stored] == [f"Stored ORD-00{n}" for n in range(1, 6)]
    assert re.fullmatch(r"\S{8} 5 of 5 orders stored in \d+\.\d{3} s", last)
    assert script.err == ""


def test_message_is_persistent_json_in_utf_8(broker: Broker, channel: Any) -> None:
    before = int(time.time())
    with producer(broker) as script:
        assert script.wait() == 0
    for method, properties, body in messages(channel, "orders"):
        assert (method.exchange, method.routing_key) == ("", "orders")
        assert properties.delivery_mode == 2
        assert properties.content_type == "application/json"
        assert properties.message_id == json.loads(body)["order_id"]
        assert before <= properties.timestamp <= int(time.time())
        assert b"\\u" not in body
        assert json.loads(body)["customer"] in body.decode()


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_publishes_the_users_own_orders(
    broker: Broker, channel: Any, tmp_path: Path, source: str
) -> None:
    lines = [
        '{"order_id": "A", "customer": "\\u0418\\u0432\\u0430\\u043d \\ud83d\\ude00\\n", "amount": 10.10, "status": "x"}',  # noqa: E501
        "",
        " \t ",
        '{"status":"x","amount":0.1000000000000000055511151231257827,"customer":"Б","order_id":"B","items":[1.0,"\\\\u0041"]}',
    ]
    text = ("\ufeff" + "\r\n".join(lines)).encode()  # with what Windows' editors add
    path = tmp_path / "orders.jsonl"
    path.write_bytes(text)
    given = (
        producer(broker, path)
        if source == "file"
        else producer(broker, "-", stdin=text)
    )
    with given as script:
        assert script.wait() == 0, script
    bodies = [body.decode() for _, _, body in messages(channel, "orders")]
    assert bodies == ["\ufeff" + lines[0], lines[3]]  # as they stand in the file


@pytest.mark.parametrize(
    "text, told",
    [
        (
            b'{"order_id": "A", "customer": "B", "amount": 1, "status": "x"}\n\n{"order_id": "A"}\n{',  # noqa: E501
            ":3: customer",
        ),
        (
            b'{"order_id": "A", "customer": "B", "amount": true, "status": "x"}\n',
            ":1: amount",
        ),
        (
            b'{"order_id": "A", "customer": "B", "amount": NaN, "status": "x"}\n',
            ":1: amount must be a number greater than 0",
        ),
        (
            b'{"order_id": "A\\u001b", "customer": "B", "amount": 1, "status": "x"}',
            ":1: order_id must be printable",
        ),
        (
            b'{"order_id": " ", "customer": "B", "amount": 1, "status": "x"}\n',
            ":1: order_id",
        ),
        (b"\n\nnot JSON\n", ":3: not JSON"),
        (
            '{"order_id": "A", "customer": "Ж"}'.encode("cp1251"),
            ":1: not JSON in UTF-8",
        ),
        ('{"order_id": "A"}'.encode("utf-16"), ":1: not JSON in UTF-8"),
    ],
)
def test_first_bad_line_ends_it_and_nothing_is_sent(
    broker: Broker, channel: Any, tmp_path: Path, text: bytes, told: str
) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(jsonl(3) + text)
    line = int(told.split(":")[1]) + 3
    with producer(broker, path) as script:
        assert script.wait() == 2
    assert script.err.startswith(f"{path}:{line}:{told.split(':', 2)[2]}")
    assert len(script.lines["stderr"]) == 1 and script.out == ""
    with producer(broker, "-", stdin=jsonl(3) + text) as script:
        assert script.wait() == 2
    assert script.err.startswith(f"-:{line}:")
    with pytest.raises(Exception, match="no queue 'orders'"):
        ready(channel)


def test_missing_file_and_folder_are_named(broker: Broker, tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with producer(broker, path) as script:
            assert script.wait() == 2
        assert str(path) in script.err and len(script.lines["stderr"]) == 1


def test_message_id_is_what_amqp_has_room_for(broker: Broker, channel: Any) -> None:
    order_id = "Ж" * 200
    order = json.dumps(
        {"order_id": order_id, "customer": "B", "amount": 1, "status": "x"}
    ).encode()
    with producer(broker, "-", stdin=order) as script:
        assert script.wait() == 0, script
    ((_, properties, body),) = messages(channel, "orders")
    assert properties.message_id == "Ж" * 60  # AMQP has room for 255 bytes
    assert json.loads(body)["order_id"] == order_id


@pytest.fixture
def short_queue(broker: Broker) -> Iterator[Broker]:
    """The shared node, its queue limited to 200 messages by an operator."""
    broker.rabbitctl_output("set_policy", "short", "^orders$", '{"max-length": 200}')
    yield broker
    broker.rabbitctl_output("clear_policy", "short")


def test_queue_that_refuses_orders_is_no_success(
    short_queue: Broker, channel: Any
) -> None:
    """In a transaction, RabbitMQ 4.0 would answer commit-ok, and drop them."""
    with Network(short_queue.port) as network:
        options = {"url": network.url(), "stdin": jsonl(5_000)}
        with patched("producer", "producer.PATIENCE = 3", "-", **options) as script:
            assert script.wait() == 1, script
        assert network.bytes_from_client < 500_000, "it stops when an order is refused"
    told = re.search(r"(\d+) of 5000 orders stored for sure, (\d+) more", script.err)
    assert told and 200 <= int(told[1]) == ready(channel) < 1_000
    assert int(told[2]) == 0, "what is refused is not stored"
    assert "may be stored twice" not in script.err and script.out == ""
    for line in (script.lines["stderr"][0], script.lines["stderr"][1]):
        assert "queue full, or missing, or most of its nodes down" in line
    assert "Giving up after 3 s" in script.lines["stderr"][1]


def test_refused_orders_are_stored_once_there_is_room(
    short_queue: Broker, channel: Any, tmp_path: Path
) -> None:
    orders = names("ORD", 1_000)
    notes = Notes(tmp_path / "notes")
    path = write_orders(tmp_path / "orders", orders)
    with producer(short_queue, path) as script:
        script.wait_for("refuses orders", "stderr")
        with notes.consumer(short_queue.url()):
            assert script.wait() == 0, script
            assert notes.wait_for(orders) == dict.fromkeys(orders, 1)
    assert "1000 of 1000 orders stored" in script.out
    assert len(script.lines["stderr"]) == 1, "it does not say so again every second"


def test_empty_file_is_no_error(broker: Broker) -> None:
    with producer(broker, "-", stdin=b"\n\n") as script:
        assert script.wait() == 0
    assert "0 of 0 orders stored in 0.000 s" in script.out


def test_empty_name_is_no_wish_for_samples(broker: Broker) -> None:
    with producer(broker, "") as script:
        assert script.wait() == 2
    assert "No such file" in script.err and script.out == ""


def test_ten_thousand_orders_take_few_round_trips(broker: Broker, channel: Any) -> None:
    """Ten at a time would take 1,000 round trips of 0.04 s: 40 s."""
    with Network(broker.port) as network:
        network.pause = 0.02
        with producer(broker, "-", stdin=jsonl(10_000), url=network.url()) as s:
            assert s.wait(20) == 0, s
    assert ready(channel) == 10_000
    assert len(s.lines["stdout"]) == 1 and "10000 of 10000 orders stored in" in s.out
    assert s.err == ""  # no terminal, no progress


def test_long_file_shows_its_progress_on_a_terminal(broker: Broker) -> None:
    master, terminal = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, PRODUCER, "-"],
        env={**os.environ, "AMQP_URL": broker.url()},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    out, _ = run.communicate(jsonl(2_500))
    progress = os.read(master, 10_000).decode()
    os.close(master)
    assert progress == "1000 orders stored\r2000 orders stored\r"
    assert out.count(b"\n") == 1 and b"2500 of 2500 orders stored" in out


def test_memory_is_at_most_400_bytes_an_order(broker: Broker) -> None:
    def peak(count: int) -> int:  # bytes
        with open(os.devnull, "wb") as nothing:
            run = subprocess.Popen(
                [sys.executable, PRODUCER, "-"],
                env={**os.environ, "AMQP_URL": broker.url()}, stdin=subprocess.PIPE,
                stdout=nothing,
            )  # fmt: skip
            assert run.stdin
            run.stdin.write(jsonl(count))
            run.stdin.close()
            _, status, usage = os.wait4(run.pid, 0)
            run.returncode = status
        assert status == 0
        return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    few, many = 10_000, 60_000
    own_bytes = len(jsonl(1))
    assert (peak(many) - peak(few)) / (many - few) <= 400 + own_bytes


@pytest.fixture(scope="module")
def waiting_in_vain() -> Iterator[Script]:
    """A producer that has been waiting since the first test of this file."""
    with Script(PRODUCER, url=nowhere()) as script:
        yield script


@pytest.fixture(autouse=True)
def _start_early(waiting_in_vain: Script) -> None:
    """Let the thirty seconds of that wait pass while the other tests run."""


def test_waits_for_the_broker_then_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    broker = Broker(tmp_path_factory.mktemp("late"))
    broker.port = free_ports(1)[0]
    with producer(broker) as script:
        told = script.wait_for("trying again for 30 s", "stderr", limit=10)
        assert f"RabbitMQ at guest@127.0.0.1:{broker.port}: " in told.string
        assert "Connection refused" in told.string
        try:
            broker.start()
            assert script.wait() == 0, script
        finally:
            broker.kill()
    assert "5 of 5 orders stored" in script.out
    assert len(script.lines["stderr"]) == 1


def test_end_of_an_outage_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    broker = Broker(tmp_path_factory.mktemp("late"))
    broker.port = free_ports(1)[0]
    with patched("producer", "producer.CALM = 0", url=broker.url()) as script:
        script.wait_for("trying again", "stderr")
        try:
            broker.start()
            assert script.wait() == 0, script
        finally:
            broker.kill()
    assert len(script.lines["stderr"]) == 2
    assert script.err.endswith("RabbitMQ stores orders again")


def test_frozen_at_the_very_end_all_is_stored(broker: Broker, channel: Any) -> None:
    """RabbitMQ does not answer when the producer closes the connection."""
    with Network(broker.port) as network:
        network.hold_up_at(CONNECTION_CLOSE)
        changes = "producer.PATIENCE = 3"
        with patched("producer", changes, url=network.url()) as script:
            assert network.held.wait(60), "it closes the connection"
            assert script.wait() == 0, script
    assert script.err == "" and "5 of 5 orders stored" in script.out


def test_stored_while_it_says_that_it_gives_up_is_success(
    broker: Broker, channel: Any
) -> None:
    """As where Ctrl-S holds up a terminal: it stands still in the middle of saying."""
    changes = (
        "say = producer.say\n"
        "def say_slowly(text, *stream):\n"
        "    say(text, *stream)\n"
        "    while 'Giving up' in text and publisher[0].stored_count < 5:\n"
        "        time.sleep(0.1)\n"
        "producer.say = say_slowly\n"
        "publisher = []\n"
        "run = producer.Publisher.run\n"
        "producer.Publisher.run = lambda self: (publisher.append(self), run(self))\n"
        "import time\n"
        "producer.PATIENCE = 3"
    )
    with Network(broker.port) as network:
        network.hold_up_at(PUBLISH)
        with patched("producer", changes, url=network.url()) as script:
            script.wait_for("Giving up", "stderr")
            network.hold_up_at(CONNECTION_CLOSE)
            network.release()
            assert script.wait() == 0, script
    assert "5 of 5 orders stored" in script.out
    assert ready(channel) == 5


def alarmed(broker: Broker, watermark: str) -> None:
    broker.rabbitctl_output("set_vm_memory_high_watermark", watermark)


@pytest.fixture
def memory_alarm(broker: Broker) -> Iterator[Broker]:
    """The shared node while it believes that its memory runs short."""
    alarmed(broker, "0.00001")
    yield broker
    alarmed(broker, "0.6")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_the_confirmation_it_says_what_is_sure(
    memory_alarm: Broker, number: int
) -> None:
    with producer(memory_alarm) as script:
        script.wait_for("low on memory", "stderr")
        script.signal(number)
        assert script.wait(limit=5) == EXIT_OF_INTERRUPTED
    assert "0 of 5 orders stored for sure, 5 more may be" in script.err
    assert "Traceback" not in script.err


def test_alarm_is_tried_again_where_pika_gives_up_earlier(memory_alarm: Broker) -> None:
    url = memory_alarm.url(query="?blocked_connection_timeout=1")
    with patched("producer", "producer.PATIENCE = 4", url=url) as script:
        assert script.wait() == 1
    assert "low on memory" in script.lines["stderr"][0]
    assert "Giving up after 4 s" in script.err and script.out == ""
    assert "0 of 5 orders stored for sure, 5 more may be" in script.err
    assert "5 orders may be stored twice" in script.err


def test_alarm_that_lasts_makes_it_give_up(memory_alarm: Broker) -> None:
    """Also with orders that fill the buffers, so that pika cannot write any more."""
    customer = b"x" * 10_000
    orders = jsonl(1_000).replace("Иван Иванов".encode(), customer)
    options = {"url": memory_alarm.url(), "stdin": orders}
    with patched("producer", "producer.PATIENCE = 3", "-", **options) as script:
        assert script.wait() == 1
    alarm, given_up, result = script.lines["stderr"]
    assert "holds orders up: low on memory" in alarm
    assert "Giving up after 3 s" in given_up and "low on memory" in given_up
    assert re.search(r"0 of 1000 orders stored for sure, \d+ more may be", result)


def test_interrupted_while_waiting_for_the_broker() -> None:
    with Script(PRODUCER, url=nowhere()) as script:
        script.wait_for("trying again", "stderr")
        script.signal(signal.SIGINT)
        assert script.wait(limit=5) == EXIT_OF_INTERRUPTED
    assert len(script.lines["stderr"]) == 1, "nothing was sent, so nothing is stored"


def test_interrupted_where_a_shell_ignores_the_signal() -> None:
    """As it does for the background jobs of a script."""
    command = ["bash", "-c", 'trap "" INT; exec "$@"', "bash", sys.executable]
    with Script(*command, PRODUCER, url=nowhere(), python=False) as script:
        script.wait_for("trying again", "stderr")
        script.signal(signal.SIGINT)
        assert script.wait(limit=5) == EXIT_OF_INTERRUPTED


def test_orders_that_came_back_from_a_deleted_queue_are_published_again(
    broker: Broker, channel: Any
) -> None:
    """The queue goes between declaring and publishing, where no user could time it."""
    changes = (
        "connect = producer.connect\n"
        "attempts = []\n"
        "def connect_and_lose():\n"
        "    attempts.append(connect())\n"
        "    if len(attempts) == 1:\n"
        "        attempts[0].channel().queue_delete('orders')\n"
        "    return attempts[-1]\n"
        "producer.connect = connect_and_lose"
    )
    with patched("producer", changes, url=broker.url()) as script:
        assert script.wait() == 0, script
    assert "queue full, or missing" in script.err
    assert len(re.findall("Stored", script.out)) == 5
    took = re.search(r"orders stored in (\d+\.\d+) s", script.out)
    assert took and float(took[1]) >= 1, "the second of waiting is a part of it"
    assert ready(channel) == 5


def test_connection_that_always_breaks_makes_it_give_up(
    broker: Broker, channel: Any
) -> None:
    with Network(broker.port) as network:
        network.cut_at = PUBLISH
        with patched("producer", "producer.PATIENCE = 5", url=network.url()) as script:
            assert script.wait() == 1, script
    assert len(script.lines["stderr"]) == 4, "it says once that it tries again"
    assert "trying again for 5 s" in script.lines["stderr"][0]
    assert "Giving up after 5 s" in script.lines["stderr"][1]
    assert "0 of 5 orders stored for sure, 5 more may be" in script.err
    assert ready(channel) == 0


def test_connection_that_often_breaks_lets_orders_through_with_few_copies(
    broker: Broker, channel: Any
) -> None:
    """Each connection ends after 60 KB, less than half of the thousand orders."""
    with Network(broker.port) as network:
        network.cut_after = 60_000
        options = {"url": network.url(), "stdin": jsonl(1_000)}
        with producer(broker, "-", **options) as script:
            assert script.wait() == 0, script
    assert "1000 of 1000 orders stored" in script.out
    repeated = re.search(r"(\d+) orders may be stored twice", script.err)
    assert repeated and int(repeated[1]) <= 1_000
    copies = Counter(drain(channel))
    assert len(copies) == 1_000
    assert sum(number > 1 for number in copies.values()) <= int(repeated[1])
    assert sum(copies.values()) <= 1_500, "what is confirmed is not sent again"


def test_order_larger_than_the_broker_takes_is_an_error(
    broker: Broker, channel: Any
) -> None:
    order = b'{"order_id": "A", "customer": "%s", "amount": 1, "status": "x"}' % (
        b"x" * 17_000_000
    )
    with producer(broker, "-", stdin=jsonl(1) + order) as script:
        assert script.wait() == 1
    assert "larger than" in script.err and "of 2 orders stored for sure" in script.err
    assert "max_message_size" in script.err
    assert "Traceback" not in script.err


def test_each_stored_order_renews_its_patience(broker: Broker, channel: Any) -> None:
    changes = (
        "count_stored = producer.Publisher.count_stored\n"
        "def store_slowly(*arguments):\n"
        "    producer.time.sleep(0.5)\n"
        "    count_stored(*arguments)\n"
        "producer.Publisher.count_stored = store_slowly\n"
        "producer.PATIENCE = 1.5"
    )
    with patched("producer", changes, url=broker.url()) as script:
        assert script.wait() == 0, script
    assert script.err == ""


def test_broker_that_does_not_answer_makes_it_give_up(broker: Broker) -> None:
    with Network(broker.port) as network:
        network.hold_up_at(b"AMQP")  # the first bytes of a connection
        with patched("producer", "producer.PATIENCE = 2", url=network.url()) as script:
            assert script.wait() == 1, script
    (told,) = script.lines["stderr"]
    assert re.search(
        f"Giving up after 2 s.* guest@127.0.0.1:{network.port} does not answer$", told
    )


def test_trouble_is_told_first_and_last() -> None:
    changes = (
        "troubles = iter(['the first', 'the last', 'the last'])\n"
        "def connect():\n"
        "    raise producer.pika.exceptions.AMQPError(next(troubles))\n"
        "producer.connect = connect\n"
        "producer.PATIENCE = 2"
    )
    with patched("producer", changes, url=nowhere()) as script:
        assert script.wait() == 1, script
    first, last = script.lines["stderr"]
    assert "the first; trying again for 2 s" in first
    assert last.endswith(": the last")


def test_confirmation_of_one_order_confirms_none_before_it() -> None:
    """RabbitMQ may confirm in any order, but a single node hardly ever does."""
    changes = (
        "orders = [producer.Order(f'ORD-{n}', b'') for n in range(3)]\n"
        "publisher = producer.Publisher(orders)\n"
        "publisher.unconfirmed = dict(enumerate(orders, start=1))\n"
        "answers = producer.pika.spec.Basic\n"
        "for answer in (answers.Ack(2), answers.Nack(3)):\n"
        "    publisher.on_confirm(producer.pika.frame.Method(1, answer))\n"
        "print([order.stored for order in orders], list(publisher.unconfirmed))\n"
        "raise SystemExit"
    )
    with patched("producer", changes, url=nowhere()) as script:
        assert script.wait() == 0, script
    assert script.lines["stdout"][-1] == "[False, True, False] [1]"


def test_closed_standard_output_is_told_in_one_line(
    broker: Broker, channel: Any
) -> None:
    assert end_with_broken_pipe(PRODUCER, broker) == (
        1,
        b"Cannot write: [Errno 32] Broken pipe\n",
    )
    assert ready(channel) == 5


def test_gives_up_after_thirty_seconds(waiting_in_vain: Script) -> None:
    assert waiting_in_vain.wait() == 1
    took = time.monotonic() - waiting_in_vain.started
    assert took >= 29, waiting_in_vain
    assert "Connection refused" in waiting_in_vain.lines["stderr"][0]
    assert "unspecified" not in waiting_in_vain.lines["stderr"][0]
    assert "Giving up after 30 s" in waiting_in_vain.lines["stderr"][1]
    assert len(waiting_in_vain.lines["stderr"]) == 2
