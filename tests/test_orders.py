"""What an order is, in process: parse_order(), which both scripts have."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consumer import parse_order
from rig.orders import line


def written(amount: str) -> bytes:
    """Return an order with the amount as it is written there."""
    return line("A", amount="@").replace(b'"@"', amount.encode())


@pytest.mark.parametrize("amount", ["5", "0.01", "1249.90", "1e3", "1e-400", "1e400"])
def test_amount_is_kept_exactly(amount: str) -> None:
    assert parse_order(written(amount))["amount"] == Decimal(amount)
    assert str(parse_order(written("1249.90"))["amount"]) == "1249.90"


@pytest.mark.parametrize(
    "amount",
    ["0", "-1", "-0.5", "true", "null", '"5"', "NaN", "Infinity", "[5]", "9" * 5000]
    + ["1e99999999999999999999"],
)
def test_amount_must_be_a_number_above_zero(amount: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        parse_order(written(amount))


@pytest.mark.parametrize("field", ["order_id", "customer", "amount", "status"])
def test_missing_field_is_named(field: str) -> None:
    order = json.loads(line("A"))
    del order[field]
    with pytest.raises(ValueError, match=f"^{field} must be given"):
        parse_order(json.dumps(order).encode())


@pytest.mark.parametrize("field", ["order_id", "customer", "status"])
@pytest.mark.parametrize("value", ["", " \t\n", "\u00a0\u2003", 5, None, ["x"], True])
def test_text_fields_must_be_text_that_is_not_blank(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be given"):
        parse_order(json.dumps({**json.loads(line("A")), field: value}).encode())


def is_order(body: bytes) -> bool:
    """Tell whether a body is an order, in another way than the scripts do."""
    try:
        order = json.loads(str(body, "utf-8").removeprefix("\ufeff"))
        texts = [order[field] for field in ("order_id", "customer", "status")]
        amount = order["amount"]
        return (
            all(isinstance(text, str) and text.strip() for text in texts)
            and type(amount).__name__ in ("int", "float")
            and amount > 0
        )
    except Exception:
        return False


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
good_text = st.text(min_size=1).filter(str.strip)
amounts = st.from_regex(r"-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?", fullmatch=True)
fields = dict.fromkeys(("order_id", "customer", "status"), good_text)


def body(order: dict[str, Any], amount: str) -> bytes:
    """Return an object as JSON, the amount as it is written there."""
    text = json.dumps({**order, "amount": "@"})
    return text.replace('"amount": "@"', f'"amount": {amount}').encode()


orders = st.builds(body, st.fixed_dictionaries(fields, optional={"x": values}), amounts)
nearly = st.builds(
    body,
    st.fixed_dictionaries({}, optional=dict.fromkeys(fields, values)),
    amounts | st.sampled_from(["NaN", "null", '"5"', "[5]", "true", "05", "5,"]),
)
cut = st.builds(lambda whole, end: whole[:end], orders, st.integers(0, 99))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # it may be the machine
@given(st.binary() | orders | nearly | cut)
@example(b"[" * 200_000)
@example(b"\xef\xbb\xbf" + line("A"))
@example(line("A").decode().encode("utf-16"))
@example(line("A", customer="Ж").decode().encode("cp1251"))
@example(line("A") + line("B"))
def test_any_bytes_are_an_order_or_raise_an_exception(message: bytes) -> None:
    try:
        order = parse_order(message)
    except Exception as error:
        assert not is_order(message)
        assert len(str(error)) < 300 and "\n" not in str(error)
    else:
        assert is_order(message)
        text = message.decode("utf-8-sig")
        assert order == json.loads(text, parse_float=Decimal)
