"""What belongs to the lab besides the scripts: docker-compose.yml, the demo, the measurement."""

import importlib
import re

from rig.node import LIMIT
from rig.orders import SAMPLE_IDS, counts, order_json, put
from rig.processes import ROOT, TESTS, Program


def test_docker_compose_keeps_orders_and_lets_no_other_computer_in():
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    volume, *ports = re.findall(r"(?m)^      - (\S+)", compose)
    assert volume == "rabbitmq-data:/var/lib/rabbitmq"
    assert ports == ['"127.0.0.1:5672:5672"', '"127.0.0.1:15672:15672"']
    for line in ["hostname: rabbitmq", "stop_grace_period: 1m"]:
        assert f"\n    {line}\n" in compose, line
    assert re.findall(r"(?m)^\w+", compose) == ["services", "volumes"]  # 1.29 knows no `name`


def test_demo_shows_five_orders_and_leaves_a_users_rabbitmq_alone(url, channel):
    """AMQP_URL leads to a RabbitMQ where the user's orders wait."""
    put(channel, order_json("MINE-1"), order_json("MINE-2"))
    with Program(TESTS / "programs/demo.py", url) as demo:
        assert demo.wait(4 * LIMIT) == 0
    assert demo.orders("RabbitMQ confirmed") == demo.orders("Processed") == SAMPLE_IDS
    assert counts(channel) == (2, 0)


def test_measurement_finds_the_lines_that_it_changes():
    """README.md's experiment 5 moves the same line."""
    importlib.import_module("programs.measure")  # an AssertionError says it
