"""producer.py with other orders: producer_of_many.py PREFIX COUNT"""

import sys

import producer
from rig.orders import ids

prefix, count = sys.argv[1:]
producer.ORDERS = [
    {"order_id": order_id, "customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
    for order_id in ids(prefix, int(count))
]
producer.main()
