"""Show five orders on their way, on a RabbitMQ node of its own: tests/run demo"""

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGINT

from rig.node import DIES_WITH_US, clean_up_at_signals, running_node
from rig.processes import CONSUMER, PRODUCER


def main() -> int:
    """Run both scripts, as a user does in two terminals; return 0 if both ended well.

    They share one pipe, so that their lines come in the order in which they are written.
    """
    reading, writing = os.pipe()
    with running_node() as node:

        def start(script: Path) -> subprocess.Popen[bytes]:
            environment = {**os.environ, "AMQP_URL": node.url()}
            command = [*DIES_WITH_US, sys.executable, str(script)]
            return subprocess.Popen(command, env=environment, stderr=writing)

        consumer, producer = start(CONSUMER), start(PRODUCER)
        os.close(writing)  # so that the lines end with the programs
        for line in os.fdopen(reading, encoding="utf-8"):
            print(line, end="", flush=True)
            if "Processed 'ORD-005'" in line:
                consumer.send_signal(SIGINT)
        return int((producer.wait(), consumer.wait()) != (0, -SIGINT))


if __name__ == "__main__":
    clean_up_at_signals()
    sys.exit(main())
