"""A user's program: it imports producer.py, publishes, and only then sets up its own log."""

import logging
import signal

from producer import publish

publish([{"order_id": "A"}])
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "Ctrl-C is the program's"
logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level="INFO")
logging.info("Published")
