"""The actor for Dramatiq's worker.

It has no setting for quorum queues, so the node's default is one.
"""

import dramatiq
from common import QUEUE, SAFEST, URL, work_off
from dramatiq.brokers.rabbitmq import RabbitmqBroker

dramatiq.set_broker(RabbitmqBroker(url=URL, confirm_delivery=SAFEST))


@dramatiq.actor(queue_name=QUEUE)
def process_order(order):
    work_off(order)
