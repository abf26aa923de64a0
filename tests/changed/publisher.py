"""README.md's example of publish(), twice, after the queue's deletion: publisher.py EXAMPLE"""

import logging
import os
import runpy
import sys
from signal import SIGINT, default_int_handler, getsignal

import producer
from rig.node import connect

for _ in ["first", "second"]:
    with connect(os.environ["AMQP_URL"]) as connection:
        connection.channel().queue_delete("orders")
    runpy.run_path(sys.argv[1])
assert (producer.RABBITMQ.connection_attempts, producer.RABBITMQ.retry_delay) == (10, 3)
assert getsignal(SIGINT) is default_int_handler, "publish() changes signals"
assert not logging.getLogger("pika").level, "publish() changes the log of pika"
