"""RabbitMQ's tutorial in Python: the receiver of part one (auto_ack).

Safest: the worker of part two.
"""

import pika
from common import QUEUE, QUORUM, SAFEST, URL, work_off_body

channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)


def callback(ch, method, properties, body):
    work_off_body(body)
    if SAFEST:
        ch.basic_ack(method.delivery_tag)


if SAFEST:
    channel.basic_qos(prefetch_count=1)
channel.basic_consume(QUEUE, callback, auto_ack=not SAFEST)
channel.start_consuming()
