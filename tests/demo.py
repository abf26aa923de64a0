"""Run the main job and show both sides: five orders go out in a blink, and come back.

    tests/run demo

The broker is the one that answers at AMQP_URL; else, where a Docker engine runs,
docker-compose's; else a throwaway rabbitmq-server. What the demo started it stops
again; of docker-compose the volume stays. It takes no queue "orders" that holds orders
or has consumers: those are somebody's. Exits with 3 where a rabbitmq-server would have
to be installed first: tests/run does that.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Iterator, List, Optional

import pika

from rig.broker import LIMIT
from rig.programs import Connection, own_broker, run
from rig.scripts import CONSUMER, PRODUCER, ROOT, Script

COUNT = 5


def tell(text: str) -> None:
    """Print a line of the demo's own."""
    print(f"    demo | {text}", flush=True)


def obstacle(url: str) -> Optional[str]:
    """Return why the broker at the URL cannot serve the demo; None if it can."""
    try:
        with Connection(pika.URLParameters(url)) as connection:
            for queue in ("orders", "orders.dead"):
                channel = connection.channel()
                try:
                    state = channel.queue_declare(queue, passive=True).method
                except pika.exceptions.ChannelClosedByBroker:
                    continue  # no such queue yet
                if queue == "orders" and (state.message_count or state.consumer_count):
                    return f"its queue {queue} is in use"
    except pika.exceptions.AMQPConnectionError as error:
        return "it does not let us in" if str(error) else "nothing answers there"
    except Exception as error:  # whatever it is, there is another broker to try
        return f"{type(error).__name__}: {error}"
    return None


def ready_to_serve(url: str) -> None:
    """Wait until the broker can serve; RuntimeError says why it does not."""
    deadline = time.monotonic() + LIMIT
    while True:
        problem = obstacle(url)
        if not problem:
            return
        if "in use" in problem or time.monotonic() > deadline:
            raise RuntimeError(problem)
        time.sleep(0.2)


def works(command: List[str]) -> bool:
    """Tell whether a command is there and succeeds."""
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True).returncode == 0


def compose_command() -> List[str]:
    """Return the command that is docker-compose here; [] where no Docker runs."""
    for command in (["docker-compose"], ["docker", "compose"]):
        if works(["docker", "info"]) and works([*command, "version"]):
            return command
    return []


@contextlib.contextmanager
def compose_broker(command: List[str]) -> Iterator[str]:
    """Bring docker-compose.yml up, yield its broker's URL, and take it down again."""
    tell(f"starting RabbitMQ: {' '.join(command)} up -d")
    up = subprocess.run([*command, "up", "-d"], cwd=ROOT, stdout=sys.stderr)
    try:
        if up.returncode:
            raise RuntimeError(f"{' '.join(command)} up -d failed")
        port = os.environ.get("RABBITMQ_PORT") or 5672
        url = f"amqp://guest:guest@localhost:{port}/%2F"
        ready_to_serve(url)
        yield url
    finally:
        subprocess.run([*command, "down"], cwd=ROOT, stdout=sys.stderr)


@contextlib.contextmanager
def throwaway_broker() -> Iterator[str]:
    """Start a node with files of its own, yield its URL, and remove it again."""
    tell("starting a RabbitMQ of our own, for this demo only")
    with own_broker("demo") as (broker, _):
        ready_to_serve(broker.url())
        yield broker.url()


@contextlib.contextmanager
def some_broker() -> Iterator[str]:
    """Yield the URL of the first broker that can serve."""
    url = os.environ.get("AMQP_URL") or "amqp://guest:guest@localhost:5672/%2F"
    where = re.sub(".*@", "", url)
    problem = obstacle(url)
    if not problem:
        tell(f"using the RabbitMQ at {where}")
        yield url
        return
    tell(f"not using a RabbitMQ at {where}: {problem}")
    with contextlib.ExitStack() as stack:
        command = compose_command()
        if command:
            try:
                url = stack.enter_context(compose_broker(command))
            except RuntimeError as error:
                tell(f"not using docker-compose: {error}")
                command = []
        if not command:
            url = stack.enter_context(throwaway_broker())
        yield url


def main() -> int:
    """Run the demo; return 0 if all orders were processed."""
    with some_broker() as url, Script(
        CONSUMER, "--count", COUNT, url=url, label="consumer"
    ) as consumer:
        with Script(PRODUCER, url=url, label="producer") as producer:
            sent = producer.wait()
            took = time.monotonic() - producer.started
        done = 0 if sent else consumer.wait()
    if sent or done:
        tell("it did not work: the lines above say why")
        return 1
    summaries = re.findall(r"Processed .* in ([\d.]+) s", consumer.out)
    assert len(summaries) == COUNT, consumer
    tell(
        f"{COUNT} orders: the producer was done after {took:.2f} s,"
        f" the consumer took {summaries[-1]} s"
    )
    return 0


if __name__ == "__main__":
    try:
        run(main)
    except FileNotFoundError:  # there is no rabbitmq-server: see rig.broker
        sys.exit(3)
