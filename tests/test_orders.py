"""What an order is, in process: parse_order(), which both scripts have."""

import json
from decimal import Decimal
from typing import Any

import pytest

from producer import parse_order
from rig.orders import line


def written(amount: str) -> bytes:
    """Return an order with the amount as it is written there."""
    return line("A", amount="@").replace(b'"@"', amount.encode())


@pytest.mark.parametrize("amount", ["5", "0.01", "1249.90", "1e3", "1e-400", "9" * 5000])
def test_amount_is_kept_exactly(amount: str) -> None:
    found = parse_order(written(amount))["amount"]
    assert isinstance(found, Decimal) and str(found) == str(Decimal(amount))


AMOUNTS = ["0", "-1", "-0.5", "true", "null", '"5"', "NaN", "Infinity", "[5]", "1e9" + "9" * 19]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_amount_must_be_a_number_above_zero(amount: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        parse_order(written(amount))


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_each_field_must_be_there(field: str) -> None:
    order = json.loads(line("A"))
    del order[field]
    with pytest.raises(ValueError, match=f"^{field} must be"):
        parse_order(json.dumps(order).encode())


@pytest.mark.parametrize("field", ["order_id", "customer", "status"])
@pytest.mark.parametrize("value", ["", " \t\n", "\u00a0\u2003", 5, None, ["x"], True])
def test_text_must_be_a_string_that_is_not_blank(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be a string"):
        parse_order(line("A", **{field: value}) if field != "order_id" else line(value))
