"""What both scripts have to do with RabbitMQ and a user."""

import runpy
import socket
from signal import SIGINT

import pika
import pytest
from pika.exceptions import AMQPConnectionError, ConnectionClosedByBroker

import consumer
import producer
from rig.network import CONNECTION_CLOSE, Network
from rig.node import free_port
from rig.processes import CONSUMER, PRODUCER, Program

each_script = pytest.mark.parametrize("script", [PRODUCER, CONSUMER], ids=["producer", "consumer"])
READY = "Stored ORD-005|Waiting for orders"  # what it says when nothing is wrong


@each_script
@pytest.mark.parametrize("url", [None, "amqps://shop:%2F@rabbitmq.example:5/%2F?heartbeat=600"])
def test_connection_is_as_amqp_url_says(script, url, monkeypatch):
    """Without AMQP_URL, to what docker-compose.yml starts. All limits are as pika has them."""

    def connect(connection, parameters):
        raise KeyboardInterrupt(parameters)  # which `except Exception` does not catch

    monkeypatch.setattr("socket.socket", None)  # nothing may reach a user's RabbitMQ
    monkeypatch.delattr("time.sleep")  # nothing may be tried again
    monkeypatch.setattr("pika.BlockingConnection.__init__", connect)
    monkeypatch.setattr("signal.signal", lambda number, reaction: None)
    monkeypatch.delenv("AMQP_URL")
    if url:
        monkeypatch.setenv("AMQP_URL", url)
    with pytest.raises(KeyboardInterrupt) as caught:
        runpy.run_path(str(script), run_name="__main__")
    (found,) = caught.value.args
    expected = pika.URLParameters(url or "amqp://guest:guest@localhost:5672")
    for name in {*pika.connection.Parameters.__slots__} - {"_ssl_options"}:
        assert getattr(found, name) == getattr(expected, name), name
    if url:
        assert found.ssl_options.context.check_hostname


@each_script
def test_other_kind_of_queue_is_told_until_it_is_deleted(script, url, channel):
    """Each connection is closed before the next one."""
    channel.queue_declare("orders", durable=True, arguments={"x-max-priority": 5})
    with Network(url) as network, Program(script, network.url, must_say="PRECONDITION") as process:
        process.wait_for("PRECONDITION_FAILED", times=3)
        assert network.sent.count(CONNECTION_CLOSE) >= 2
        assert process.count(READY) == 0
        channel.queue_delete("orders")
        process.wait_for(READY)


@each_script
@pytest.mark.parametrize("case", ["ConnectionRefused", "StackTimeout", "ACCESS_REFUSED"])
def test_failed_connection_is_told_in_a_line(script, case, url):
    """Nobody listens; a frozen RabbitMQ listens, but says nothing; the password is wrong.

    Ctrl-C ends it meanwhile without a traceback.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {"ConnectionRefused": free_port(), "ACCESS_REFUSED": pika.URLParameters(url).port}
        where = f"127.0.0.1:{ports.get(case) or silent.getsockname()[1]}"
        told = f"^ERROR RabbitMQ at {where}: .*{case}"
        wrong = f"amqp://guest:wr%40ng@{where}" + "?stack_timeout=1" * (case == "StackTimeout")
        with Program(script, wrong, must_say=told) as process:
            process.wait_for(told, times=2)
            process.kill(SIGINT)
    assert process.count("") == process.count(told), "nothing else"
    assert process.count("wr@ng|wr%40ng") == 0


FAILURES = [socket.gaierror(), ConnectionClosedByBroker(320, "CONNECTION_FORCED"), KeyError("id")]
FAILURES += [OSError(), AMQPConnectionError(), TypeError(), ValueError(), AttributeError()]


@pytest.mark.parametrize(
    ("script", "function"), [(producer, "publish"), (consumer, "consume_orders")]
)
def test_each_failure_is_told_and_tried_again_without_end(
    script, function, slept, monkeypatch, caplog
):
    failures = iter([*FAILURES * 250, KeyboardInterrupt()])

    def fail(*orders):
        raise next(failures)

    monkeypatch.setattr(script, function, fail)
    with pytest.raises(KeyboardInterrupt):
        script.main()
    where = f"RabbitMQ at 127.0.0.1:{script.RABBITMQ.port}"
    assert caplog.messages == [f"{where}: {error!r}" for error in FAILURES * 250]
    assert slept == [1] * 2_000
