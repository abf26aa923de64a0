"""Run the main job and show both sides: five orders go out in a blink, and come back.

    tests/run demo

The broker is the one that answers at AMQP_URL. If its queue is in use, or if it does
not let us in, it is somebody's, and a node of the demo's own serves instead, on a free
port. If nothing answers there, docker-compose's serves where a Docker engine runs, and
else, again, a node of its own. What the demo started it stops again; of docker-compose
the volume stays. Exits with 3 where a rabbitmq-server would have to be installed first:
tests/run does that.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pika

from rig.broker import wait_until
from rig.orders import counts
from rig.programs import Connection, own_broker, run
from rig.scripts import CONSUMER, PRODUCER, ROOT, Script

NOBODY = "nothing answers there"


def tell(text: str) -> None:
    """Print a line of the demo's own."""
    print(f"    demo | {text}", flush=True)


def obstacle(url: str) -> str:
    """Return why the broker at the URL cannot serve the demo; "" if it can."""
    try:
        with Connection(pika.URLParameters(url)) as connection:
            try:
                found = counts(connection.channel())
            except pika.exceptions.ChannelClosedByBroker:
                return ""  # there is no such queue yet
            in_use = found.message_count or found.consumer_count
            return "its queue orders is in use" if in_use else ""
    except Exception as error:  # pika raises many kinds
        text = repr(error)
        nobody = "ConnectionRefused" in text or "Transport indicated EOF" in text
        return NOBODY if nobody else f"it does not let us in: {text}"


def compose_command() -> list[str]:
    """Return the command that is docker-compose here; [] where no Docker runs."""
    for command in (["docker-compose"], ["docker", "compose"]):
        tries = [["docker", "info"], [*command, "version"]]
        if all(shutil.which(words[0]) for words in tries) and not any(
            subprocess.run(words, capture_output=True).returncode for words in tries
        ):
            return command
    return []


@contextlib.contextmanager
def compose_broker(command: list[str]) -> Iterator[str]:
    """Bring docker-compose.yml up, and yield its broker's URL.

    Take it down again, unless it had been up before.
    """
    ps = subprocess.run([*command, "ps", "-q"], cwd=ROOT, capture_output=True)
    tell(f"starting RabbitMQ: {' '.join(command)} up -d")
    try:
        subprocess.run([*command, "up", "-d"], cwd=ROOT, stdout=sys.stderr, check=True)
        port = os.environ.get("RABBITMQ_PORT") or 5672
        url = f"amqp://guest:guest@localhost:{port}"
        wait_until(lambda: obstacle(url) != NOBODY, "an answer of RabbitMQ", 120)
        yield url
    finally:
        if not ps.stdout.strip():
            subprocess.run([*command, "down"], cwd=ROOT, stdout=sys.stderr)


@contextlib.contextmanager
def some_broker() -> Iterator[str]:
    """Yield the URL of the first broker that can serve."""
    url = os.environ.get("AMQP_URL") or "amqp://guest:guest@localhost:5672"
    where = re.sub(".*[@/]", "", url.rstrip("/"))
    why_not = obstacle(url)
    with contextlib.ExitStack() as stack:
        if not why_not:
            tell(f"using the RabbitMQ at {where}")
            yield url
            return
        tell(f"not using a RabbitMQ at {where}: {why_not}")
        command = compose_command() if why_not == NOBODY else []
        if command:
            url = stack.enter_context(compose_broker(command))
            why_not = obstacle(url)
        if why_not:
            tell("starting a RabbitMQ of our own, for this demo only")
            broker, _ = stack.enter_context(own_broker("demo"))
            url = broker.url()
        yield url


def main() -> int:
    """Run the demo; return 0 if all orders were processed."""
    with some_broker() as url, Script(CONSUMER, url=url, label="consumer") as consumer:
        with Script(PRODUCER, url=url, label="producer") as producer:
            if producer.wait():
                tell("it did not work: the lines above say why")
                return 1
        took = producer.arrivals[-1] - producer.started
        consumer.wait_for("Processed ORD-005")
        consumer.stop()
    worked = consumer.seen("(Processed)")[-1][1] - consumer.seen("(Received)")[0][1]
    times = f"the producer was done after {took:.2f} s, the consumer took {worked:.2f} s"
    tell(f"5 orders: {times}")
    return 0


if __name__ == "__main__":
    try:
        run(main)
    except FileNotFoundError:  # there is no rabbitmq-server: see rig.broker
        sys.exit(3)
