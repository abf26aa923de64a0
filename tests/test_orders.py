"""What is an order, and which URLs are good: the functions that both scripts share."""

import importlib
import json
from decimal import Decimal
from typing import Any

import pytest

GOOD = {"order_id": "ORD-1", "customer": "Иван Иванов", "amount": 5000, "status": "pending"}


@pytest.fixture(params=["consumer", "producer"])
def script(request: pytest.FixtureRequest) -> Any:
    """Each of the two scripts as a module."""
    return importlib.import_module(request.param)


def line(**fields: Any) -> bytes:
    """Return a good order with some fields changed."""
    return json.dumps({**GOOD, **fields}, ensure_ascii=False).encode()


def number(text: str) -> bytes:
    """Return a good order with the amount written as `text`."""
    return line(amount="@").replace(b'"@"', text.encode())


@pytest.mark.parametrize("text", ["5", "0.01", "1249.90", "1e3", "1.79e308", "0." + "0" * 9 + "1"])
def test_amount_is_kept_as_written(script: Any, text: str) -> None:
    assert script.parse_order(number(text))["amount"] == Decimal(text)
    assert str(script.parse_order(number("1249.90"))["amount"]) == "1249.90"


@pytest.mark.parametrize("text", [
    "0", "-1", "-0.5", "true", "false", "null", '"5000"', "NaN", "Infinity", "-Infinity", "1e999", "[5]", "{}",
    "1e99999999999999999999", "9" * 400, "9" * 5000,
])
def test_amount_must_be_a_finite_number_above_zero(script: Any, text: str) -> None:
    with pytest.raises(ValueError, match="amount|JSON"):
        script.parse_order(number(text))


@pytest.mark.parametrize("field", ["order_id", "customer", "status"])
@pytest.mark.parametrize("value", ["", " ", "\t\n", "\u00a0\u2003", 5, None, ["x"], {"x": 1}, True])
def test_text_fields_must_be_strings_that_are_not_blank(script: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        script.parse_order(line(**{field: value}))


@pytest.mark.parametrize("field", ["order_id", "customer", "status", "amount"])
def test_no_field_may_be_missing(script: Any, field: str) -> None:
    order = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(ValueError, match=field):
        script.parse_order(json.dumps(order).encode())


@pytest.mark.parametrize("body", [
    b"", b" ", b"null", b"5", b'"order"', b"[]", b"{", b"{}x", b"\x00" * 1000, b"\xff\xfe", b"[" * 200_000,
    '{"order_id": "Ж"}'.encode("cp1251"), line(order_id="A").replace(b"A", b"\\ud800"), line(x="@") + b"}",
    line(x="@").replace(b'"@"', b"NaN"),
])
def test_what_is_no_order_is_refused_in_one_bounded_line(script: Any, body: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        script.parse_order(body)
    assert 0 < len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_other_fields_may_stand_beside(script: Any) -> None:
    assert script.parse_order(line(items=[{"sku": 1}], note=None))["items"] == [{"sku": 1}]


@pytest.mark.parametrize("urls, nodes", [
    ("", [("localhost", 5672, "guest", "/", False)]),
    ("amqp://u:p@a", [("a", 5672, "u", "/", False)]),
    ("amqps://u:p%2C@a/v%2Fh?heartbeat=5", [("a", 5671, "u", "v/h", True)]),
    ("amqp://u:p@a:1/,amqps://v:p@b/x, amqp://c:3", [
        ("a", 1, "u", "/", False), ("b", 5671, "v", "x", True), ("c", 3, "guest", "/", False)]),
])
def test_urls_name_the_nodes_in_their_order(script: Any, urls: str, nodes: Any) -> None:
    parsed = [(n.host, n.port, n.credentials.username, n.virtual_host, bool(n.ssl_options))
              for n in script.parse_urls(urls)]
    assert parsed == nodes


@pytest.mark.parametrize("url, shown", [
    ("http://me:s3cret@host/", "http://me:***@host/"),
    ("me:s3cret@host", "me:***@host"),
    ("amqp://me:s3cret@host:port/", "amqp://me:***@host:port/"),
    ("amqp://me:s3cret@host:99999/", "amqp://me:***@host:99999/"),
    ("amqp://me:s3cret", "amqp://me:***"),
    ("amqp://me:s3cret@s3cret@host:x", "amqp://me:***@host:x"),
    ("amqp://me:s3c?ret@host", "amqp://me:***"),
    ("amqp://me:[s3cret]@host:x", "amqp://me:***@host:x"),
    ("amqp://me@host", "amqp://me@host"),
    ("amqp://me:12/s3cret@host:5672/", "amqp://me:***@host:5672/"),
    ("amqp://me:12?heartbeat=s3cret@host/", "amqp://me:***@host/"),
    ("amqp://me:12#s3cret@host/", "amqp://me:***@host/"),
    ("amqp://a,http://me:s3cret@b/", "http://me:***@b/"),
    ("amqp://me:s3cret@host:5672/?nonsense=1", "amqp://me:***@host:5672/: Unknown URL parameter: 'nonsense'"),
    ("amqp://me:s3cret@host/?heartbeat=soon", "amqp://me:***@host/: Invalid heartbeat value 'soon'"),
    ("amqps://me:s3cret@host/?ssl_options={'ca_certs':'/no.pem'}", "amqps://me:***@host/: [Errno 2] No such file"),
    ("amqps://me:s3cret@host/?ssl_options={", "amqps://me:***@host/"),
])
def test_bad_url_is_shown_without_its_password(
    script: Any, url: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script.parse_urls(url)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert f"AMQP_URL {shown}" in told
    assert "s3c" not in told
    assert told.count("\n") == 1
