"""What an order is, in process: parse_order() of consumer.py."""

import json

import pytest

from consumer import parse_order
from rig.orders import order_json


@pytest.mark.parametrize("amount", [5000, 1249.5, 0, -3])
def test_order_is_returned_whole(amount: float) -> None:
    """With fields that FIELDS does not name."""
    body = order_json("A", amount=amount, items=[1, {"n": None}], note="")
    assert parse_order(body) == json.loads(body)


@pytest.mark.parametrize("body", [b"hello", b"", b"\xff", b"[]", b"null", b'"A"'])
def test_message_that_is_no_json_object_is_no_order(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_order(body)


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_message_without_a_field_is_no_order(field: str) -> None:
    order = json.loads(order_json("A"))
    del order[field]
    with pytest.raises(ValueError, match=f"^{field} is missing or has the wrong type$"):
        parse_order(json.dumps(order).encode())


@pytest.mark.parametrize(
    "field, value",
    [
        ("order_id", 5),
        ("customer", 5),
        ("customer", None),
        ("amount", "5"),
        ("amount", True),
        ("amount", None),
        ("status", 5),
        ("status", ["new"]),
    ],
)
def test_message_with_a_field_of_the_wrong_type_is_no_order(field: str, value: object) -> None:
    body = json.dumps({**json.loads(order_json("A")), field: value}).encode()
    with pytest.raises(ValueError, match=f"^{field} is missing or has the wrong type$"):
        parse_order(body)
