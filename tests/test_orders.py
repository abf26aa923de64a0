"""What an order is, in process: parse_order() of consumer.py."""

import json

import pytest

from consumer import parse_order
from rig.orders import order_json

TEXT = "{} must be a string, and not blank"
AMOUNT = "amount must be a number above 0 and below 1e15"


def with_amount(text: str) -> bytes:
    """Return an order with the amount as it is written there."""
    return order_json("A", amount="@").replace(b'"@"', text.encode())


def without(field: str) -> bytes:
    """Return an order that lacks a field."""
    order = json.loads(order_json("A"))
    del order[field]
    return json.dumps(order).encode()


def test_order_is_returned_whole() -> None:
    """With the fields that no rule speaks of."""
    body = order_json("A", items=[1, {"n": None}], note="")
    assert parse_order(body) == json.loads(body)


@pytest.mark.parametrize("amount", ["5", "0.01", "1249.90", "1e3", "1e-300", "999999999999999"])
def test_amount_is_any_number_above_zero_and_below_the_limit(amount: str) -> None:
    assert parse_order(with_amount(amount))["amount"] == float(amount)


@pytest.mark.parametrize(
    "body, reason",
    [
        pytest.param(b"hello", "Expecting value: line 1 column 1 (char 0)", id="no JSON"),
        pytest.param(b"", "Expecting value: line 1 column 1 (char 0)", id="empty"),
        pytest.param(b"[]", "not a JSON object", id="list"),
        pytest.param(b'"A"', "not a JSON object", id="string"),
        pytest.param(b"null", "not a JSON object", id="null"),
        pytest.param(without("order_id"), TEXT.format("order_id"), id="no order_id"),
        pytest.param(without("customer"), TEXT.format("customer"), id="no customer"),
        pytest.param(without("status"), TEXT.format("status"), id="no status"),
        pytest.param(without("amount"), AMOUNT, id="no amount"),
        pytest.param(order_json(5), TEXT.format("order_id"), id="order_id 5"),
        pytest.param(order_json(""), TEXT.format("order_id"), id="order_id empty"),
        pytest.param(order_json("\u00a0\t"), TEXT.format("order_id"), id="order_id blank"),
        pytest.param(order_json("A", customer=None), TEXT.format("customer"), id="customer null"),
        pytest.param(order_json("A", status=[]), TEXT.format("status"), id="status list"),
        pytest.param(with_amount("0"), AMOUNT, id="amount 0"),
        pytest.param(with_amount("-0.5"), AMOUNT, id="amount negative"),
        pytest.param(with_amount("true"), AMOUNT, id="amount true"),
        pytest.param(with_amount('"5"'), AMOUNT, id="amount string"),
        pytest.param(with_amount("null"), AMOUNT, id="amount null"),
        pytest.param(with_amount("NaN"), AMOUNT, id="amount NaN"),
        pytest.param(with_amount("1e15"), AMOUNT, id="amount 1e15"),
        pytest.param(with_amount("1e999"), AMOUNT, id="amount infinite"),
        pytest.param(with_amount("9" * 4000), AMOUNT, id="amount of 4,000 digits"),
    ],
)
def test_other_messages_are_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_order(body)
    assert str(refused.value) == reason
