"""What an order is: parse_order() of consumer.py. These tests need no RabbitMQ."""

import json

import pytest

from consumer import InvalidOrder, parse_order
from rig.orders import order_json


@pytest.mark.parametrize(
    ("encoding", "fields"),
    [
        ("utf-8", {"order_id": "", "customer": "", "amount": 0, "comment": None}),
        ("utf-8-sig", {"amount": -3.5, "items": [1, {"n": None}] * 100_000}),
        ("utf-16", {"order_id": "A" * 1_000_000, "amount": 10**300, "status": "Ж" * 1_000_000}),
        ("utf-32", {"order_id": 1, "customer": {"name": "Ж"}, "amount": "12.50", "status": False}),
        ("utf-8", {"amount": float("nan")}),  # is not JSON, but json.loads() reads it
    ],
)
def test_order_is_returned_whole(encoding, fields):
    """The work has to look at types and amounts."""
    body = order_json(**{"order_id": "A", **fields})
    found = parse_order(body.decode().encode(encoding))
    whole = repr(found) == repr(json.loads(body))  # pytest would compare them for minutes
    assert whole, repr(found)[:200]


def test_message_that_is_no_json_object_is_no_order():
    for body in [b"hello", b"", b"\xff", b'{"A": "\n"}', b"[" * 200_000, b"9" * 5_000]:
        with pytest.raises(InvalidOrder, match="^unreadable JSON: ."):
            parse_order(body)
    for body in [b"[]", b"null", b'"A"', b"5"]:
        with pytest.raises(InvalidOrder, match="^not a JSON object$"):
            parse_order(body)


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_order_has_four_fields(field):
    order = json.loads(order_json("A"))
    without = {name: value for name, value in order.items() if name != field}
    for no_order in [without, {**order, field: None}]:
        with pytest.raises(InvalidOrder, match=f"^{field} is missing or null$"):
            parse_order(json.dumps(no_order).encode())


def test_error_in_json_or_values_is_no_refusal():
    """An `except ValueError` in the work does not catch a refusal, nor the other way round."""
    assert InvalidOrder.__bases__ == (Exception,)
