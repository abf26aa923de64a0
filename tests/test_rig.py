"""The tests' own RabbitMQ node: it boots at the second try, or says why it does not."""

import socket
from pathlib import Path

import pytest

from rig.broker import Broker, free_ports


def test_node_that_does_not_boot_says_why(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "no_such_setting = 5\n")
    with pytest.raises(RuntimeError, match="tried to set no_such_setting"):
        broker.start()
    assert not broker.running()
    assert len(list(tmp_path.glob("*/output"))) == 2, "it was tried twice"


def test_node_whose_port_is_taken_boots_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # without listen(): only the node itself notices
        taken = other.getsockname()[1]
        offers = iter([[taken, *free_ports(2)], free_ports(3)])
        monkeypatch.setattr("rig.broker.free_ports", lambda count: next(offers))
        try:
            assert broker.start().is_alive()
            assert broker.port != taken
        finally:
            broker.kill()
