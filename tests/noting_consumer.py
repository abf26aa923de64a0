"""consumer.py with a process_order that also notes the order in the file that NOTES names.

It is what one would put there for real work, and the tests' witness: the line is in the file before
the order is acknowledged, and stays there whatever happens to the process the moment after.
"""

import json
import os
import sys
from typing import Any, Dict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import consumer

NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND)
work = consumer.process_order


def process_order(order: Dict[str, Any], channel: Any, seconds: float) -> None:
    work(order, channel, seconds)
    # The newline before it keeps it apart from a line that a SIGKILL cut short.
    os.write(NOTES, f"\n{json.dumps(order, default=repr)}\n".encode())  # Decimal('1.50') as it is


consumer.process_order = process_order
consumer.main()
