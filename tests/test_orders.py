"""What is an order, and which URLs are valid: the functions that both scripts have."""

import importlib
import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from rig.scripts import ROOT

GOOD = {
    "order_id": "ORD-1",
    "customer": "Иван Иванов",
    "amount": 5000,
    "status": "pending",
}


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


@pytest.mark.parametrize(
    "text", ["5", "0.01", "1249.90", "1e3", "1.79e308", "0." + "0" * 9 + "1"]
)
def test_amount_is_kept_as_written(script: Any, text: str) -> None:
    assert script.parse_order(number(text))["amount"] == Decimal(text)
    assert str(script.parse_order(number("1249.90"))["amount"]) == "1249.90"


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "-0.5",
        "true",
        "false",
        "null",
        '"5000"',
        "NaN",
        "Infinity",
        "-Infinity",
        "[5]",
        "{}",
        "1e99999999999999999999",
        "9" * 5000,
    ],
)
def test_amount_must_be_a_number_above_zero(script: Any, text: str) -> None:
    with pytest.raises(ValueError, match="amount|JSON"):
        script.parse_order(number(text))


@pytest.mark.parametrize("field", ["order_id", "customer", "status"])
@pytest.mark.parametrize(
    "value", ["", " ", "\t\n", "\u00a0\u2003", 5, None, ["x"], {"x": 1}, True]
)
def test_text_fields_must_be_strings_that_are_not_blank(
    script: Any, field: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=field):
        script.parse_order(line(**{field: value}))


@pytest.mark.parametrize("field", ["order_id", "customer", "status", "amount"])
def test_no_field_may_be_missing(script: Any, field: str) -> None:
    order = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(ValueError, match=field):
        script.parse_order(json.dumps(order).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b'"order"',
        b"[]",
        b"{",
        b"{}x",
        b"\x00" * 1000,
        b"\xff\xfe",
        b"[" * 200_000,
        '{"order_id": "Ж"}'.encode("cp1251"),
        line(order_id="A").replace(b"A", b"\\ud800"),
        line(x="@") + b"}",
        line(order_id="A\u202e"),
        line(order_id="A\x1b[2J"),
    ],
)
def test_what_is_no_order_is_refused_in_one_bounded_line(
    script: Any, body: bytes
) -> None:
    with pytest.raises(ValueError) as caught:
        script.parse_order(body)
    assert 0 < len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_other_fields_may_stand_beside(script: Any) -> None:
    assert script.parse_order(line(items=[{"sku": 1}], note=None))["items"] == [
        {"sku": 1}
    ]


@pytest.mark.parametrize(
    "url, node",
    [
        ("amqp://u:p@a", ("a", 5672, "u", "/", False)),
        ("amqp://u:p@a:1/", ("a", 1, "u", "/", False)),
        ("amqp://c:3", ("c", 3, "guest", "/", False)),
        ("amqps://u:p%2C@a/v%2Fh?heartbeat=5", ("a", 5671, "u", "v/h", True)),
    ],
)
def test_url_names_a_node(script: Any, url: str, node: Any) -> None:
    n = script.parse_url(url)
    user = n.credentials.username
    assert (n.host, n.port, user, n.virtual_host, bool(n.ssl_options)) == node


@pytest.mark.parametrize(
    "urls, address",
    [
        ("", "guest@localhost:5672"),
        ("amqp://u:p@a:1/, amqps://v:p@b/x", "u@a:1, v@b:5671"),
    ],
)
def test_several_urls_name_the_nodes_of_a_cluster(
    script: Any, urls: str, address: str
) -> None:
    code = f"import {script.__name__} as script; print(script.ADDRESS)"
    environment = {**os.environ, "AMQP_URL": urls}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True
    )
    assert run.stdout.decode().strip() == address


@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3cret@host/",
        "me:s3cret@host",
        "amqp:/me:s3cret@host",
        "amqp://me:s3cret@host:port/",
        "amqp://me:s3cret@host:99999/",
        "amqp://me:s3cret",
        "amqp://me:s3cret@s3cret@host:x",
        "amqp://me:s3c?ret@host",
        "amqp://me:[s3cret]@host:x",
        "amqp://me:12/s3cret@host:5672/",
        "amqp://me:12?heartbeat=s3cret@host/",
        "amqp://me:12#s3cret@host/",
        "amqp://me:s3cret@host:5672/?nonsense=1",
        "amqp://me:s3cret@host/?heartbeat=soon",
        "amqps://me:s3cret@host/?ssl_options={'ca_certs':'/no.pem'}",
        "amqps://me:s3cret@host/?ssl_options={",
    ],
)
def test_invalid_url_is_not_shown(
    script: Any, url: str, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(script.sys, "stderr", sys.__stderr__)
    with pytest.raises(SystemExit) as caught:
        script.parse_url(url)
    assert caught.value.code == 2
    told = capfd.readouterr().err
    assert "AMQP_URL must look like amqp://USER:PASSWORD@HOST:5672/VHOST" in told
    assert "s3c" not in told and "12" not in told[8:]
    assert told.count("\n") == 1


def test_error_without_a_text_is_told_by_its_name(script: Any) -> None:
    told = script.describe_or_exit(script.pika.exceptions.NoFreeChannels())
    assert told.startswith("RabbitMQ at ") and "NoFreeChannels" in told
