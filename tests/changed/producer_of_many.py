"""producer.py with other orders: producer_of_many.py PREFIX FIRST LAST (two numbers, from 1)"""

import sys

import producer
from rig.orders import ids

prefix, first, last = sys.argv[1:]
producer.RABBITMQ.connection_attempts = 2
producer.ORDERS = [
    {"order_id": order_id, "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
    for order_id in ids(prefix, int(last), first=int(first))
]
producer.main()
