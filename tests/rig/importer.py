"""A user's program: it imports producer.py, publishes, and only then sets up its own log."""

import logging
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program's own choice
from producer import publish  # noqa: E402

publish([{"order_id": "A"}])
logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
logging.info(signal.getsignal(signal.SIGINT).name)
