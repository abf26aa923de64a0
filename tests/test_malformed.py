"""Any bytes: an order is processed as it was given, all else is dead-lettered."""

import itertools
import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any, Counter, Dict, Iterator, List, Tuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from rig.broker import Broker, wait_until
from rig.notes import Notes
from rig.orders import an_order, declared, messages, ready, write_orders
from rig.scripts import Script, consumer, producer

PROPERTY = settings(
    database=None,
    deadline=None,
    # The same examples each time: a failure here is no matter of luck
    derandomize=True,
    max_examples=25,  # batches
    phases=[
        Phase.explicit,
        Phase.generate,
    ],  # no shrinking: a batch that failed leaves its messages behind
    suppress_health_check=list(HealthCheck),
)
serial = itertools.count(1)


def test_order_that_the_terminal_cannot_show_is_processed_all_the_same(
    broker: Broker, channel: Any, tmp_path: Path
) -> None:
    orders = write_orders(tmp_path / "orders.jsonl", ["Заказ-1"])
    with producer(broker, orders, PYTHONIOENCODING="latin-1") as script:
        assert script.wait() == 0, script
    with consumer(
        broker, "--processing-time", 0, "--count", 1, PYTHONIOENCODING="latin-1"
    ) as worker:
        assert worker.wait() == 0, worker
    name = r"\u0417\u0430\u043a\u0430\u0437-1"
    assert f"Stored {name}" in script.out
    assert f"Received {name}: " in worker.out
    assert f"Processed {name} " in worker.out
    assert ready(channel, "orders.dead") == 0


class Pair:
    """One consumer for all batches, and a channel to publish to it."""

    def __init__(
        self, broker: Broker, channel: Any, notes: Notes, worker: Script, folder: Path
    ) -> None:
        self.broker, self.channel, self.notes, self.worker, self.folder = (
            broker,
            channel,
            notes,
            worker,
            folder,
        )
        self.seen = 0

    def processed(self) -> List[Dict[str, Any]]:
        """Wait until all that was published is settled; return the orders processed
        since the last time.
        """
        last = f"LAST-{next(serial)}"
        self.channel.basic_publish("", "orders", json.dumps(an_order(last)))
        self.notes.wait_for([last])
        self.worker.wait_for(f"Received {last}: ")  # all lines before it are read
        new = self.notes.orders()[self.seen :]
        self.seen += len(new)
        return new[:-1]


@pytest.fixture(scope="module")
def pair(node: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("malformed")
    notes = Notes(folder / "notes")
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("orders")
        channel.queue_delete("orders.dead")
        with notes.consumer(node.url()) as worker:
            wait_until(lambda: declared(node), "the queue")
            yield Pair(node, channel, notes, worker, folder)
            worker.signal()
            assert worker.wait() == 0, worker


def is_printable(text: str) -> bool:
    """Tell whether a text has no character that is a control, a format or unknown."""
    return all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in text)


def is_order(body: bytes) -> bool:
    """Tell whether a body is an order, in another way than the scripts do."""
    try:
        order = json.loads(body.decode("utf-8-sig"), parse_float=Decimal)
        texts = [order[field] for field in ("order_id", "customer", "status")]
        amount = order["amount"]
        return (
            isinstance(order, dict)
            and all(isinstance(text, str) and text.strip() for text in texts)
            and is_printable(texts[0])
            and type(amount).__name__ in ("int", "Decimal")
            and amount > 0
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return False


def written(fields: Dict[str, Any], amount: str) -> bytes:
    """Return an object as JSON, the amount as it is written there."""
    head = json.dumps(
        fields, ensure_ascii=len(amount) % 2 == 0 or "\\ud" in json.dumps(fields)
    )
    return f'{head[:-1]}{", " * bool(fields)}"amount": {amount}}}'.encode()


any_text = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["", " ", "\n", "\ud800", "A"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3)
    ),
    max_leaves=5,
)
amounts = st.from_regex(
    r"-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
good_amounts = st.from_regex(
    r"[1-9][0-9]{0,12}(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?|0\.0{0,5}[1-9][0-9]{0,9}",
    fullmatch=True,
)
good_text = st.text(min_size=1, max_size=20).map(
    lambda text: text if text.strip() else f"A{text}"[:20]
)
printable_text = st.text(
    st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20
)
required: Dict[str, "st.SearchStrategy[Any]"] = {
    "order_id": printable_text,
    "customer": good_text,
    "status": good_text,
}
good_fields = st.fixed_dictionaries(
    required, optional={"note": values, "ключ": any_text}
)
orders = st.builds(written, good_fields, good_amounts)
nearly_orders = st.builds(
    written,
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("order_id", "customer", "status"), values | good_text),
    ),
    amounts
    | st.sampled_from(
        ["NaN", "-Infinity", "null", '"5"', "[5]", "true", "0x5", "05", "1_000", "5,"]
    ),
)
cut_orders = st.builds(lambda body, end: body[:end], orders, st.integers(0, 99))
any_json = values.map(lambda value: json.dumps(value).encode())
bodies = st.binary() | any_json | orders | nearly_orders | cut_orders

ORDER = json.dumps(an_order("A")).encode()
STRANGE = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"[" * 200_000,
    b"9" * 5_000,
    bytes(1_000_000),
    b"{}",
    b"null",
    b'"A"',
]
STRANGE += [
    b"\xef\xbb\xbf" + ORDER,
    ORDER.decode().encode("utf-16"),
    ORDER + ORDER,
    ORDER[:-1],
    ORDER + b"\n",
]
STRANGE += [
    ORDER.replace(b"John", name)
    for name in (b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\n", b"\\u0000")
]
STRANGE += [
    ORDER.replace(b' Smith"', b'", "note": ' + note)
    for note in (b"NaN", b"-Infinity", b"1")
]
STRANGE += [
    ORDER.replace(b"John Smith", blank.encode())
    for blank in ("", "  ", "\u3000\xa0", "\u200b")
]
GOOD_EDGES = [
    "0.1",
    "0.10",
    "1249.50",
    "1E2",
    "5000",
    "1e-7",
    "1e308",
    "1e-999",
    "1" * 300,
    "1e309",
]
BAD_EDGES = ["0e9", "-0.0", "-1", "1e999999999999999999999", "1" * 5_000]
STRANGE += [
    ORDER.replace(b"1249.5", amount.encode()) for amount in GOOD_EDGES + BAD_EDGES
]


@PROPERTY
@given(batch=st.lists(bodies, min_size=20, max_size=60))
@example(batch=STRANGE)
def test_any_bytes_are_processed_as_an_order_or_dead_lettered_as_they_are(
    pair: Pair, batch: List[bytes]
) -> None:
    for body in batch:
        pair.channel.basic_publish("", "orders", body)
    processed = [order["order_id"] for order in pair.processed()]
    good = [body for body in batch if is_order(body)]
    dead = Counter(body for body in batch if not is_order(body))
    assert processed == [
        json.loads(body.decode("utf-8-sig"))["order_id"] for body in good
    ]
    wait_until(
        lambda: ready(pair.channel, "orders.dead") >= sum(dead.values()),
        "the dead letters",
    )
    assert Counter(body for _, _, body in messages(pair.channel, "orders.dead")) == dead


@PROPERTY
@given(batch=st.lists(st.tuples(good_fields, good_amounts), min_size=5, max_size=40))
@example(batch=[(an_order("A"), amount) for amount in GOOD_EDGES])
@example(
    batch=[
        (
            {
                **an_order("A"),
                "note": '\\u0041 \\\\u0041 \U0001f600 \ud800 \u2028 \x85 "',
            },
            "1",
        )
    ]
)
def test_any_order_comes_out_of_the_consumer_with_the_values_it_was_given(
    pair: Pair, batch: List[Tuple[Dict[str, Any], str]]
) -> None:
    path = pair.folder / "orders"
    path.write_bytes(
        b"".join(
            written(without_amount(order), amount) + b"\n" for order, amount in batch
        )
    )
    with producer(pair.broker, path) as script:
        assert script.wait() == 0, script
    processed = pair.processed()
    lines = [line for line in pair.worker.lines["stdout"] if " Received " in line][
        -len(batch) - 1 : -1
    ]
    assert len(processed) == len(lines) == len(batch)
    for order, line, (fields, amount) in zip(processed, lines, batch):
        value: Any = int(amount) if amount.isdigit() else Decimal(amount)
        expected = json.loads(json.dumps(without_amount(fields)), parse_float=Decimal)
        assert order == json.loads(
            json.dumps({**expected, "amount": value}, default=repr)
        )
        assert line.endswith(f", {value}")


def without_amount(fields: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "amount"}
