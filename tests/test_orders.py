"""What an order is: parse_order() of consumer.py. These tests need no RabbitMQ."""

import json

import pytest

from consumer import InvalidOrder, parse_order
from rig.orders import order_json

NO_TEXTS = [5, 1.5, True, None, ["A"], {"A": "A"}]
NO_NUMBERS = ["5", True, None, [5], {"5": 5}]


@pytest.mark.parametrize("amount", [5000, 1249.5, 0, -3, float("nan")])
def test_order_is_returned_whole(amount):
    """Even if it is large, has empty texts, and fields that FIELDS does not name.

    NaN is not JSON, but json.loads() reads it. The work has to look at its amounts.
    """
    body = order_json("", customer="", amount=amount, status="Ж", items=[1, {"n": None}] * 100_000)
    for encoding in ["utf-8", "utf-8-sig", "utf-16", "utf-32"]:
        assert repr(parse_order(body.decode().encode(encoding))) == repr(json.loads(body))


def test_message_that_is_no_json_object_is_no_order():
    for body in [b"hello", b"", b"\xff", b"[" * 200_000, b"9" * 5_000]:
        with pytest.raises(InvalidOrder, match="^unreadable JSON: ."):
            parse_order(body)
    for body in [b"[]", b"null", b'"A"', b"5"]:
        with pytest.raises(InvalidOrder, match="^not a JSON object$"):
            parse_order(body)


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_order_has_four_fields_of_a_type(field):
    order = json.loads(order_json("A"))
    wrong = [{**order, field: value} for value in (NO_NUMBERS if field == "amount" else NO_TEXTS)]
    del order[field]
    for no_order in [order, *wrong]:
        with pytest.raises(InvalidOrder, match=f"^{field} is missing or has the wrong type$"):
            parse_order(json.dumps(no_order).encode())
