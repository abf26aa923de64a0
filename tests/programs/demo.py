"""Show five orders on their way, on a RabbitMQ node of its own: tests/run demo"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rig.node import clean_up_at_signals, running_node

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Run both scripts, as a user does in two terminals; return the consumer's exit status."""
    with (
        tempfile.TemporaryDirectory(prefix="orders-demo-") as folder,
        running_node(Path(folder)) as node,
    ):
        environment = {**os.environ, "AMQP_URL": node.url()}
        command = [sys.executable, str(ROOT / "consumer.py")]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as consumer:
            assert consumer.stderr
            for line in consumer.stderr:
                print(line.decode(), end="", flush=True)
                if b"Waiting for orders" in line:
                    subprocess.run([sys.executable, ROOT / "producer.py"], env=environment)
                if b"Processed 'ORD-005'" in line:
                    consumer.send_signal(signal.SIGINT)
        return consumer.returncode


if __name__ == "__main__":
    clean_up_at_signals()
    sys.exit(main())
