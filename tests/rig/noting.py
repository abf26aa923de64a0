"""The tests' witness: the scripts, noting in the file NOTES what they have done.

    python -m rig.noting consumer [ARGUMENTS FOR consumer.py]
    python -m rig.noting producer [ARGUMENTS FOR producer.py]

The consumer notes an order when its work is done, before it is acknowledged; the
producer notes it when RabbitMQ has confirmed it. Once noted, it stays noted, whatever
happens to the process the moment after.
"""

import json
import os
import sys
from typing import Any, Dict

from rig.pair import consumer, producer

NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND)
process_order = consumer.process_order
count_stored = producer.Publisher.count_stored


def note(order: Dict[str, Any]) -> None:
    """Write an order down, a Decimal as its repr, such as Decimal('1.50')."""
    # The newline before it keeps it apart from a line that a SIGKILL cut short.
    os.write(NOTES, f"\n{json.dumps(order, default=repr)}\n".encode())


def noting_process_order(order: Dict[str, Any]) -> None:
    """Stand in for consumer.process_order."""
    process_order(order)
    note(order)


def noting_count_stored(self: producer.Publisher, order: producer.Order) -> None:
    """Stand in for Publisher.count_stored."""
    note({"order_id": order.order_id})
    count_stored(self, order)


consumer.process_order = noting_process_order
producer.Publisher.count_stored = noting_count_stored  # type: ignore[method-assign]
{"consumer": consumer.main, "producer": producer.main}[sys.argv.pop(1)]()
