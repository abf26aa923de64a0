"""What an order is: parse_order() of consumer.py. These tests need no RabbitMQ."""

import json

import pytest

from consumer import InvalidOrder, parse_order
from rig.orders import order_json

NO_TEXTS = [5, True, None, ["A"], {"A": "A"}]
NO_NUMBERS = ["5", True, None, [5], {"5": 5}]


@pytest.mark.parametrize("amount", [5000, 1249.5, 0, -3])
def test_order_is_returned_whole(amount):
    """A large one, with empty texts, and with fields that FIELDS does not name."""
    body = order_json("", customer="", amount=amount, status="", items=[1, {"n": None}] * 100_000)
    assert parse_order(body) == json.loads(body)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_order_can_come_in_each_encoding_of_json(encoding):
    body = order_json("ЗАКАЗ")
    assert parse_order(body.decode().encode(encoding)) == json.loads(body)


def test_amount_can_be_what_python_takes_for_a_number():
    """NaN is not JSON, but json.loads() reads it. The work has to look at its amounts."""
    assert repr(parse_order(order_json("A", amount=float("nan")))["amount"]) == "nan"


@pytest.mark.parametrize("body", [b"hello", b"", b"\xff", b"[" * 200_000, b"9" * 5_000], ids=len)
def test_message_that_cannot_be_read_is_no_order(body):
    with pytest.raises(InvalidOrder, match="^unreadable JSON: ."):
        parse_order(body)


def test_message_that_is_no_json_object_is_no_order():
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


def test_lack_of_memory_does_not_make_an_order_invalid(monkeypatch):
    def fail(_):
        raise MemoryError

    monkeypatch.setattr("json.loads", fail)
    with pytest.raises(MemoryError):
        parse_order(b"{}")
