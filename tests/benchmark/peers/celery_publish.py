"""Send the orders as tasks of Celery."""

import json

from celery_app import process_order
from common import orders, stored

for body in orders():
    process_order.delay(json.loads(body))
stored()
