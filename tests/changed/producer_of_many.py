"""producer.py with so many orders, and so many attempts: both in a JSON object."""

import json
import sys

import producer
from rig.orders import ids

change = json.loads(sys.argv[1])
producer.ATTEMPTS = change.get("attempts", producer.ATTEMPTS)
producer.ORDERS = [
    {"order_id": order_id, "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
    for order_id in ids(change["prefix"], change["count"])
]
producer.main()
