"""Show five orders on their way, on a RabbitMQ node of its own: tests/run demo"""

import os
import sys
from signal import SIGINT
from subprocess import PIPE, Popen

from rig.node import DIES_WITH_US, running_node
from rig.processes import CONSUMER, PRODUCER


def main() -> int:
    """Run both scripts, as a user does in two terminals; return 0 if both ended well."""
    command = [*DIES_WITH_US, sys.executable]
    with running_node() as node:
        environment = {**os.environ, "AMQP_URL": node.url()}
        consumer = Popen([*command, CONSUMER], env=environment, stderr=PIPE, encoding="utf-8")
        producer = Popen([*command, PRODUCER], env=environment)
        if producer.wait() != 0:
            consumer.kill()
        assert consumer.stderr
        for line in consumer.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if "Processed 'ORD-005'" in line:
                consumer.send_signal(SIGINT)
        return int((producer.wait(), consumer.wait()) != (0, -SIGINT))


if __name__ == "__main__":
    sys.exit(main())
