"""What an order is, in process: parse_order() of consumer.py."""

import json

import pytest

from consumer import InvalidOrder, parse_order
from rig.orders import order_json

NO_TEXTS = [5, True, None, ["A"], {"A": "A"}]
NO_NUMBERS = ["5", True, None, [5], {"5": 5}]


@pytest.mark.parametrize("amount", [5000, 1249.5, 0, -3])
def test_order_is_returned_whole(amount: float) -> None:
    """A large one, with empty texts, and with fields that FIELDS does not name."""
    body = order_json("", customer="", amount=amount, status="", items=[1, {"n": None}] * 100_000)
    assert parse_order(body) == json.loads(body)


@pytest.mark.parametrize(
    "body", [b"hello", b"", b"\xff", b"[" * 200_000, b"9" * 5_000, b"[]", b"null", b'"A"'], ids=len
)
def test_message_that_is_no_json_object_is_no_order(body: bytes) -> None:
    with pytest.raises(InvalidOrder):
        parse_order(body)


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_order_has_four_fields_of_a_type(field: str) -> None:
    order = json.loads(order_json("A"))
    wrong = [{**order, field: value} for value in (NO_NUMBERS if field == "amount" else NO_TEXTS)]
    del order[field]
    for no_order in [order, *wrong]:
        with pytest.raises(InvalidOrder, match=f"^{field} is missing or has the wrong type$"):
            parse_order(json.dumps(no_order).encode())
