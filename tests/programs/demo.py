"""Show five orders on their way, on a RabbitMQ node of its own: tests/run demo"""

import os
import subprocess
import sys

from rig.node import KILL_WITH_PARENT, running_node
from rig.processes import CONSUMER, PRODUCER

python = [*KILL_WITH_PARENT, sys.executable]
with running_node() as node:
    os.environ["AMQP_URL"] = node.url
    consumer = subprocess.Popen([*python, CONSUMER], stderr=subprocess.PIPE, encoding="utf-8")
    for line in consumer.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if "Waiting for orders" in line:
            subprocess.run([*python, PRODUCER], check=True)
        if "Processed 'ORD-005'" in line:
            sys.exit()  # this ends the consumer, too
    sys.exit("The consumer has ended.")
