"""What an order is, in process: parse_order() of consumer.py."""

import json

import pytest

from consumer import parse_order
from rig.orders import order_json

TEXTS = ["order_id", "customer", "status"]


def with_amount(text: str) -> bytes:
    """Return an order with the amount as it is written there."""
    return order_json("A", amount="@").replace(b'"@"', text.encode())


def test_order_is_returned_whole() -> None:
    """With the fields that no rule speaks of."""
    body = order_json("A", items=[1, {"n": None}], note="")
    assert parse_order(body) == json.loads(body)


@pytest.mark.parametrize("amount", ["5", "0.01", "1249.90", "1e3", "1e-300", "999999999999999"])
def test_amount_is_any_number_above_zero_and_below_the_limit(amount: str) -> None:
    assert parse_order(with_amount(amount))["amount"] == float(amount)


@pytest.mark.parametrize(
    "amount",
    ["0", "-1", "-0.5", "true", "null", '"5"', "[5]", "NaN", "Infinity"]
    + ["1e15", "1e999999", "1e99999999999999999999", "9" * 4000],
)
def test_other_amounts_are_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="^amount must be a number above 0 and below 1e15$"):
        parse_order(with_amount(amount))


@pytest.mark.parametrize("field", [*TEXTS, "amount"])
def test_order_without_a_field_is_refused(field: str) -> None:
    order = json.loads(order_json("A"))
    del order[field]
    with pytest.raises(ValueError, match=f"^{field} must be"):
        parse_order(json.dumps(order).encode())


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("value", ["", " \t\n", "\u00a0\u2003", 5, None, ["x"], True])
def test_text_that_is_blank_or_no_string_is_refused(field: str, value: object) -> None:
    order = {**json.loads(order_json("A")), field: value}
    with pytest.raises(ValueError, match=f"^{field} must be a string, and not blank$"):
        parse_order(json.dumps(order).encode())


@pytest.mark.parametrize("body", [b"[]", b'"A"', b"5", b"null"])
def test_json_that_is_no_object_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(ValueError, match="^not a JSON object$"):
        parse_order(body)


@pytest.mark.parametrize("field", TEXTS)
def test_text_that_no_database_stores_is_refused(field: str) -> None:
    """Half of a surrogate pair."""
    order = {**json.loads(order_json("A")), field: "\ud800"}
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_order(json.dumps(order).encode())
