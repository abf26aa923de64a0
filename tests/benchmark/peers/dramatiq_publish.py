"""Send the orders as messages of Dramatiq."""

import json

import dramatiq
from common import orders, stored
from dramatiq_app import process_order

for body in orders():
    process_order.send(json.loads(body))
dramatiq.get_broker().close()
stored()
