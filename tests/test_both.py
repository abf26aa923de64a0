"""What both scripts have to do with RabbitMQ and a user."""

import re
import runpy
import socket
import sys
from datetime import UTC, datetime, timedelta, timezone
from signal import SIGINT, SIGTERM

import pika
import pytest
from pika.exceptions import ChannelWrongStateError, StreamLostError

import consumer
import producer
from rig.network import BASIC_ACK, CONNECTION_CLOSE, CONSUME_OK, Network
from rig.node import free_port
from rig.processes import CONSUMER, PRODUCER, Program

each_script = pytest.mark.parametrize("script", [PRODUCER, CONSUMER], ids=["producer", "consumer"])
ELEVEN_HOURS_BEHIND = timezone(timedelta(hours=-11))  # as processes.py sets the programs' clock
READY = "Stored ORD-005|Waiting for orders"  # what it says when nothing is wrong


@each_script
def test_script_runs_where_only_pika_is_installed(script):
    """It can be copied alone."""
    modules = re.findall(r"(?m)^ *(?:import|from) (\w+)", script.read_text("utf-8"))
    assert {*modules} - {"pika"} <= sys.stdlib_module_names


@each_script
@pytest.mark.parametrize(
    "amqp_url", [None, "amqps://shop:%2F@rabbitmq.example:5/%2F?heartbeat=600"]
)
def test_connection_is_as_amqp_url_says(script, amqp_url, monkeypatch):
    """Without AMQP_URL, to what docker-compose.yml starts. All limits are as pika has them."""

    def connect(connection, parameters):
        raise KeyboardInterrupt(parameters)  # which `except Exception` does not catch

    monkeypatch.setattr("socket.socket", None)  # nothing may reach a user's RabbitMQ
    monkeypatch.delattr("time.sleep")  # nothing may be tried again
    monkeypatch.setattr("pika.BlockingConnection.__init__", connect)
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    monkeypatch.delenv("AMQP_URL")
    if amqp_url:
        monkeypatch.setenv("AMQP_URL", amqp_url)
    with pytest.raises(KeyboardInterrupt) as caught:
        runpy.run_path(str(script), run_name="__main__")
    (found,) = caught.value.args
    expected = pika.URLParameters(amqp_url or "amqp://guest:guest@127.0.0.1:5672")
    for name in {*pika.connection.Parameters.__slots__} - {"_ssl_options"}:
        assert getattr(found, name) == getattr(expected, name), name
    if amqp_url:
        assert found.ssl_options.context.check_hostname


@each_script
def test_other_kind_of_queue_is_told_until_it_is_deleted(script, url, channel):
    """Each connection is closed before the next one."""
    channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 5})
    with Network(url) as network, Program(script, network.url, must_say="PRECONDITION") as process:
        process.wait_for("PRECONDITION_FAILED - inequivalent arg", times=3)
        assert network.sent.count(CONNECTION_CLOSE) >= 2
        assert process.count(READY) == 0
        channel.queue_delete("orders")
        process.wait_for(READY)


@each_script
@pytest.mark.parametrize(
    ("case", "end"),
    [("ConnectionRefused", SIGTERM), ("ACCESS_REFUSED", SIGINT), ("NOT_ALLOWED", SIGINT)],
)
def test_failed_connection_is_told_in_a_line(script, case, end, url):
    """Nobody listens; the password is wrong; the virtual host is unknown. A signal ends it."""
    port = free_port() if case == "ConnectionRefused" else pika.URLParameters(url).port
    user = "guest:wr%40ng" if case == "ACCESS_REFUSED" else "guest:guest"
    told = f"^ERROR RabbitMQ at 127.0.0.1:{port}: .*{case}"
    with Program(script, f"amqp://{user}@127.0.0.1:{port}/unknown", must_say=told) as process:
        process.wait_for(told, times=2)
        process.kill(end)
    assert process.count("") == process.count(told), "nothing else"
    assert process.count("wr@ng|wr%40ng") == 0


@pytest.mark.parametrize(
    ("script", "answer"),
    [(PRODUCER, BASIC_ACK), (CONSUMER, CONSUME_OK)],
    ids=["confirmation", "subscription"],
)
def test_ctrl_c_ends_the_silent_wait_for_an_answer(script, answer, url, channel):
    """No order is called stored, and no consumer waiting, before RabbitMQ has said so."""
    with Network(url, answered={answer: None}) as network, Program(script, network.url) as process:
        process.wait_until(lambda: answer in network.answered, "RabbitMQ's answer")
        process.kill(SIGINT)
    assert process.log == ""


@each_script
def test_clock_of_the_log_is_the_users(script, url, channel):
    with Program(script, url) as process:
        process.wait_for(READY)
    said = datetime.strptime(process.log[:23], "%Y-%m-%d %H:%M:%S,%f")
    clock = said.replace(tzinfo=ELEVEN_HOURS_BEHIND)
    assert abs(clock - datetime.now(UTC)) < timedelta(minutes=5)


FAILURES = [StreamLostError, ChannelWrongStateError, socket.gaierror, OSError, Exception] * 500


@pytest.mark.parametrize(
    ("script", "function"), [(producer, "publish"), (consumer, "consume_orders")]
)
def test_each_failure_is_told_and_tried_again_without_end(
    script, function, slept, monkeypatch, caplog
):
    """Those of RabbitMQ are told in a line, with where and why, any other with its traceback."""
    kinds = iter([*FAILURES, KeyboardInterrupt])

    def fail(*orders):
        raise next(kinds)("why")

    monkeypatch.setattr(script, function, fail)
    with pytest.raises(KeyboardInterrupt):
        script.main()
    where = f"RabbitMQ at 127.0.0.1:{script.RABBITMQ.port}"
    for kind, record in zip(FAILURES, caplog.records, strict=True):
        assert record.levelname == "ERROR"
        if kind is Exception:
            assert (record.message, record.exc_info[0]) == ("Trying again", kind)
        else:
            assert (record.message, record.exc_info) == (f"{where}: {kind('why')!r}", None)
    assert slept == [1] * len(FAILURES)


def test_consumer_that_rabbitmq_has_cancelled_connects_again_after_a_second(slept, monkeypatch):
    results = iter([None, KeyboardInterrupt()])

    def consume_orders():
        if error := next(results):
            raise error

    monkeypatch.setattr(consumer, "consume_orders", consume_orders)
    with pytest.raises(KeyboardInterrupt):
        consumer.main()
    assert slept == [1]
