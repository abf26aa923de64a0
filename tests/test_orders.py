"""What an order is: parse_order() of consumer.py. These tests need no RabbitMQ."""

import json

import pytest

import consumer
from consumer import InvalidOrder, parse_order
from rig.orders import new_order


def test_order_is_returned_whole():
    """The work has to look at types and amounts."""
    order = new_order("", customer={"name": "Ж"}, amount=-5, status=0, items=[12.5, None])
    found = parse_order(json.dumps(order, ensure_ascii=False).encode())
    assert repr(found) == repr(order)  # which tells 12.5 from a Decimal


def test_message_that_is_no_json_object_is_no_order():
    swallowed = (ValueError, LookupError, RuntimeError)  # by an except in the work
    assert not issubclass(InvalidOrder, swallowed)
    for body in [b"hello", b"", b"\xff", b'{"A": "\n"}', b"[" * 200_000, b"9" * 5_000]:
        with pytest.raises(InvalidOrder, match="^unreadable JSON: ."):
            parse_order(body)
    for body in [b"[]", b"null", b'"A"', b"5"]:
        with pytest.raises(InvalidOrder, match="^not a JSON object$"):
            parse_order(body)


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_order_has_four_fields(field):
    without = new_order("A")
    del without[field]
    for no_order in [without, {**without, field: None}]:
        with pytest.raises(InvalidOrder, match=f"^{field} is missing or null$"):
            parse_order(json.dumps(no_order).encode())


def test_fields_are_a_users_choice(monkeypatch):
    monkeypatch.setattr(consumer, "FIELDS", ["order_id"])
    assert parse_order(b'{"order_id": "A"}') == {"order_id": "A"}
