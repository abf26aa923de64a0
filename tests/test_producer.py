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
from typing import Any, Iterator

import pytest
from faults import Network
from support import PRODUCER, Broker, Script, end_with_broken_pipe, free_ports, messages, producer, ready

EXIT_OF_INTERRUPTED = 130


def jsonl(count: int) -> bytes:
    """Return `count` orders as JSON Lines."""
    line = '{"order_id": "A-%06d", "customer": "Иван Иванов", "amount": %d.50, "status": "pending"}\n'
    return "".join(line % (n, n + 1) for n in range(count)).encode()


def test_publishes_five_sample_orders(broker: Broker, channel: Any) -> None:
    with producer(broker) as script:
        assert script.wait() == 0
    orders = [json.loads(body) for _, _, body in messages(channel, "orders")]
    assert [order["order_id"] for order in orders] == [f"ORD-00{n}" for n in range(1, 6)]
    assert {order["status"] for order in orders} == {"pending"}
    assert sum(isinstance(order["amount"], float) for order in orders) == 1
    customers = "".join(order["customer"] for order in orders)
    assert re.search("[а-я]", customers) and re.search("[a-z]", customers)
    sent = [re.match(r"\d\d:\d\d:\d\d Sent (.*)", line) for line in script.lines["stdout"][:-1]]
    assert [json.loads(line[1]) for line in sent if line] == orders
    assert re.fullmatch(r"\d\d:\d\d:\d\d 5 orders stored in \d+\.\d+ s", script.lines["stdout"][-1])
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
def test_publishes_the_users_own_orders(broker: Broker, channel: Any, tmp_path: Path, source: str) -> None:
    lines = [
        '{"order_id": "A", "customer": "\\u0418\\u0432\\u0430\\u043d \\ud83d\\ude00\\n", "amount": 10.10, "status": "x"}',
        "",
        " \t ",
        '{"status":"x","amount":0.1000000000000000055511151231257827,"customer":"Б","order_id":"B","items":[1.0,"\\\\u0041"]}',
    ]
    text = ("\ufeff" + "\r\n".join(lines)).encode()  # with what Windows' editors add
    path = tmp_path / "orders.jsonl"
    path.write_bytes(text)
    given = producer(broker, path) if source == "file" else producer(broker, "-", stdin=text)
    with given as script:
        assert script.wait() == 0, script
    bodies = [body.decode() for _, _, body in messages(channel, "orders")]
    assert bodies == [
        '{"order_id": "A", "customer": "Иван 😀\\n", "amount": 10.10, "status": "x"}',
        lines[3],
    ]


@pytest.mark.parametrize("text, told", [
    (b'{"order_id": "A", "customer": "B", "amount": 1, "status": "x"}\n\n{"order_id": "A"}\n{', ":3: customer"),
    (b'{"order_id": "A", "customer": "B", "amount": true, "status": "x"}\n', ":1: amount"),
    (b'{"order_id": " ", "customer": "B", "amount": 1, "status": "x"}\n', ":1: order_id"),
    (b"\n\nnot JSON\n", ":3: not JSON"),
    ('{"order_id": "A", "customer": "Ж"}'.encode("cp1251"), ":1: not JSON in UTF-8"),
    ('{"order_id": "A"}'.encode("utf-16"), ":1: not JSON in UTF-8"),
])
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
    order = json.dumps({"order_id": order_id, "customer": "B", "amount": 1, "status": "x"}).encode()
    with producer(broker, "-", stdin=order) as script:
        assert script.wait() == 0, script
    ((_, properties, body),) = messages(channel, "orders")
    assert properties.message_id == "Ж" * 127  # 255 bytes, and no half letter
    assert json.loads(body)["order_id"] == order_id


def test_queue_that_refuses_orders_is_no_success(broker: Broker, channel: Any) -> None:
    """Were they sent in a transaction, RabbitMQ 4.0 would answer commit-ok, and drop them."""
    broker.rabbitctl_output("set_policy", "short", "^orders$", '{"max-length": 1500}')
    try:
        with producer(broker, "-", stdin=jsonl(5_000)) as script:
            assert script.wait() == 1, script
        with producer(broker) as again:
            assert again.wait() == 1, again
    finally:
        broker.rabbitctl_output("clear_policy", "short")
    told = re.search(r"(\d+) of 5000 orders stored for sure", script.err)
    assert told and 1_000 <= int(told[1]) <= ready(channel) < 5_000
    assert "the queue orders is full" in script.err and script.out == ""
    assert "0 of 5 orders stored for sure" in again.err and "Sent" not in again.out


def test_empty_file_is_no_error(broker: Broker) -> None:
    with producer(broker, "-", stdin=b"\n\n") as script:
        assert script.wait() == 0
    assert "0 orders stored in 0.000 s" in script.out


def test_empty_name_is_no_wish_for_samples(broker: Broker) -> None:
    with producer(broker, "") as script:
        assert script.wait() == 2
    assert "No such file" in script.err and script.out == ""


def test_ten_thousand_orders_take_few_round_trips(broker: Broker, channel: Any) -> None:
    """One by one they would be confirmed in 10,000 frames of 21 bytes."""
    with Network(broker.port) as network:
        with producer(broker, "-", stdin=jsonl(10_000), url=network.url()) as s:
            assert s.wait() == 0, s
        assert 0 < network.bytes_from_broker < 50_000
    assert ready(channel) == 10_000
    assert len(s.lines["stdout"]) == 1 and "10000 orders stored in" in s.out
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
    assert progress == "".join(f"{n} of 2500 orders stored\r" for n in (1000, 2000, 2500))
    assert out.count(b"\n") == 1 and b"2500 orders stored" in out


def test_memory_is_at_most_400_bytes_an_order(broker: Broker) -> None:
    def peak(count: int) -> int:  # bytes
        with open(os.devnull, "wb") as nothing:
            run = subprocess.Popen(
                [sys.executable, PRODUCER, "-"],
                env={**os.environ, "AMQP_URL": broker.url()}, stdin=subprocess.PIPE, stdout=nothing,
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
    """A producer that has been waiting, since the module's tests began, for a broker that never comes."""
    with Script(PRODUCER, url=f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/") as script:
        yield script


@pytest.fixture(autouse=True)
def _start_early(waiting_in_vain: Script) -> None:
    """Let the thirty seconds of that wait pass while the other tests run."""


def test_waits_for_the_broker_then_goes_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    broker = Broker(tmp_path_factory.mktemp("late"))
    with producer(broker) as script:
        told = script.wait_for("No connection", "stderr", limit=10)
        assert f"127.0.0.1:{broker.port}" in told.string and "Connection refused" in told.string
        try:
            broker.start()
            assert script.wait() == 0, script
        finally:
            broker.kill()
    assert "5 orders stored" in script.out
    assert len(script.lines["stderr"]) == 2 and "Connected to" in script.err


def alarmed(broker: Broker, watermark: str) -> None:
    broker.rabbitctl_output("set_vm_memory_high_watermark", watermark)


@pytest.fixture
def memory_alarm(broker: Broker) -> Iterator[Broker]:
    """The shared node while it believes that its memory runs short."""
    alarmed(broker, "0.00001")
    yield broker
    alarmed(broker, "0.6")


def test_memory_alarm_is_named_and_ends_it(memory_alarm: Broker) -> None:
    with producer(memory_alarm, url=memory_alarm.url(query="?blocked_connection_timeout=2")) as script:
        assert script.wait() == 1
    assert "low on memory" in script.err
    assert "0 of 5 orders stored for sure, the rest may or may not be" in script.err
    assert "Sent" not in script.out and "stored" not in script.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_the_confirmation_it_says_what_is_sure(memory_alarm: Broker, number: int) -> None:
    with producer(memory_alarm) as script:
        script.wait_for("low on memory", "stderr")
        script.signal(number)
        assert script.wait(limit=5) == EXIT_OF_INTERRUPTED
    assert "0 of 5 orders stored for sure, the rest may or may not be" in script.err
    assert "Traceback" not in script.err


def test_alarm_is_waited_for_less_than_thirty_seconds() -> None:
    code = "import producer, pika; print(pika.URLParameters('amqp://h').blocked_connection_timeout)"
    run = subprocess.run([sys.executable, "-c", code], cwd=PRODUCER.parent, capture_output=True, text=True)
    assert 10 <= float(run.stdout) <= 28, run


def test_interrupted_while_waiting_for_the_broker() -> None:
    with Script(PRODUCER, url=f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/") as script:
        script.wait_for("No connection", "stderr")
        script.signal(signal.SIGINT)
        assert script.wait(limit=5) == EXIT_OF_INTERRUPTED
    assert len(script.lines["stderr"]) == 1


def test_queue_deleted_meanwhile_is_not_reported_as_stored(broker: Broker) -> None:
    """The queue goes between the declaration and the first order, where no user could time it."""
    code = (
        "import producer\n"
        "connect = producer.connect\n"
        "def connect_and_lose(*arguments):\n"
        "    channel = connect(*arguments)\n"
        "    channel.queue_delete('orders')\n"
        "    return channel\n"
        "producer.connect = connect_and_lose\n"
        "producer.main()\n"
    )
    with Script("-c", code, url=broker.url(), PYTHONPATH=str(PRODUCER.parent)) as script:
        assert script.wait() == 1, script
    assert "orders was deleted" in script.err and "0 of 5 orders stored for sure" in script.err
    assert "Sent" not in script.out


def test_order_larger_than_the_broker_takes_is_an_error(broker: Broker, channel: Any) -> None:
    order = b'{"order_id": "A", "customer": "%s", "amount": 1, "status": "x"}' % (b"x" * 17_000_000)
    with producer(broker, "-", stdin=jsonl(1) + order) as script:
        assert script.wait() == 1
    assert "larger than" in script.err and "0 of 2 orders stored for sure" in script.err
    assert "Traceback" not in script.err


def test_closed_standard_output_is_told_in_one_line(broker: Broker, channel: Any) -> None:
    assert end_with_broken_pipe(PRODUCER, broker) == (1, b"Cannot write: [Errno 32] Broken pipe\n")
    assert ready(channel) == 5


def test_gives_up_after_thirty_seconds(waiting_in_vain: Script) -> None:
    assert waiting_in_vain.wait() == 1
    took = time.monotonic() - waiting_in_vain.started
    assert took >= 29, waiting_in_vain
    assert "Connection refused" in waiting_in_vain.lines["stderr"][0]
    assert len(waiting_in_vain.lines["stderr"]) == 3
