"""consumer.py with a process_order that does nothing, like the peers'.

Not --processing-time 0: time.sleep(0) asks the system, which takes 0.08 ms an order.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
import consumer  # noqa: E402


def process_order(order):
    pass


consumer.process_order = process_order
consumer.main()
