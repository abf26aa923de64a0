"""RabbitMQ's tutorial in Python, part two: the sender.

Safest: with publisher confirms.
"""

import pika
from common import QUEUE, QUORUM, SAFEST, URL, orders, stored

connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
channel.queue_declare(QUEUE, durable=True, arguments=QUORUM)
if SAFEST:
    channel.confirm_delivery()
properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
for body in orders():
    channel.basic_publish("", QUEUE, body, properties, mandatory=SAFEST)
connection.close()
stored()
