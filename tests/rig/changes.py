"""Changes of the two scripts, which a test puts in place by name.

    start_consumer(node, partial(pause, 0), partial(work_takes, seconds=5))

They run in the script's process, before its main(): python -m rig.changes SCRIPT. The environment
variable CHANGES has them, pickled.
"""

import base64
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable

import consumer
import producer

Change = Callable[[], None]

# Of producer.py


def orders_are(order_ids: list[str]) -> None:
    """Let it publish these orders."""
    rest = {"customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
    producer.ORDERS = [{"order_id": order_id, **rest} for order_id in order_ids]


def two_attempts() -> None:
    """Let it give up after two failures."""
    producer.ATTEMPTS = 2


def patient() -> None:
    """Let it go on for long, as a node may boot slowly."""
    producer.ATTEMPTS = 1_000


# Of consumer.py


def pause(seconds: float) -> None:
    """Let it pause for so long after work that failed."""
    setattr(consumer, "PAUSE", seconds)  # noqa: B010 (mypy knows it as an int)


def three_tries() -> None:
    """Let it try an order three times, without a pause."""
    consumer.TRIES = 3
    pause(0)


def work_is(work: Callable[[dict], None]) -> None:
    """Let this be the work on an order."""
    setattr(consumer, "process_order", work)  # noqa: B010 (mypy refuses the assignment)


def work_is_nothing() -> None:
    """Let the work be empty, for measurements."""
    work_is(lambda order: None)


def work_takes(seconds: float = 0) -> None:
    """Let the work take so long, and say when it begins and ends, whatever happens next."""

    def work(order: dict) -> None:
        print("begin", order["order_id"], flush=True)
        time.sleep(seconds)
        print("end", order["order_id"], flush=True)

    work_is(work)


def work_waits(fails: bool = False) -> None:
    """Let the work wait at a gate: until the test closes the process's standard input."""

    def work(order: dict) -> None:
        print("begin", order["order_id"], flush=True)
        sys.stdin.read()
        if fails:
            raise RuntimeError("the card was declined")
        print("end", order["order_id"], flush=True)

    work_is(work)


def work_fails(on: str, times: int = 1_000, error: BaseException | None = None) -> None:
    """Let the work on one order fail so often, by default as a declined card would."""
    failures = 0

    def charge_the_card(order: dict) -> None:
        nonlocal failures
        if order["order_id"] == on and failures < times:
            failures += 1
            raise RuntimeError("the card was declined") if error is None else error

    work_is(charge_the_card)


def work_empties_the_order() -> None:
    """Let the work take everything out of the order."""
    work_is(dict.clear)


class Odd(Exception):
    """An exception that is not true, as one with __len__() can be, and that says very much."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "odd" * 100_000


def work_crashes(on: str) -> None:
    """Let the process die in its work on one order, by SIGKILL."""

    def work(order: dict) -> None:
        if order["order_id"] == on:
            os.kill(os.getpid(), signal.SIGKILL)

    work_is(work)


def work_is_code(code: str) -> None:
    """Let the work be the process_order() in a text, such as README's."""
    names: dict[str, Callable[[dict], None]] = {}
    exec(code, names)
    work_is(names["process_order"])


if __name__ == "__main__":
    script = sys.argv.pop()
    for change in pickle.loads(base64.b64decode(os.environ["CHANGES"])):
        change()
    {"producer": producer, "consumer": consumer}[script].main()
