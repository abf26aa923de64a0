"""Show five orders on their way, on a RabbitMQ node of its own: tests/run demo"""

import os
import subprocess
import sys

from rig.node import DIES_WITH_US, running_node
from rig.processes import CONSUMER, PRODUCER

python = [*DIES_WITH_US, sys.executable]
with running_node() as node:
    environment = {**os.environ, "AMQP_URL": node.url}
    consumer = subprocess.Popen(
        [*python, CONSUMER], env=environment, stderr=subprocess.PIPE, encoding="utf-8"
    )
    status = None
    for line in consumer.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if "Waiting for orders" in line:
            status = subprocess.run([*python, PRODUCER], env=environment).returncode
        if status or "Processed 'ORD-005'" in line:
            consumer.terminate()
            sys.exit(status)
    sys.exit("The consumer has ended.")
