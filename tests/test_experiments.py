"""The experiments, with short orders: what was measured holds at any speed."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rig.broker import Broker, running

WORK = 0.4  # seconds

pytestmark = pytest.mark.xdist_group("experiments")  # its tests share what was found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each of them found. They mostly wait, so three nodes share the time."""
    from experiments import measure  # matplotlib takes a second, in each process

    folder = tmp_path_factory.mktemp("nodes")

    def measured(number: int) -> list[tuple[str, Any]]:
        with running(Broker(folder / str(number))) as broker:
            return [(e.__name__, e(broker, WORK)) for e in measure.EXPERIMENTS[number::3]]

    with ThreadPoolExecutor() as pool:
        return dict(sum(pool.map(measured, range(3)), []))


def test_orders_go_to_consumers_that_are_free(found: dict[str, Any]) -> None:
    _, rows, panels = found["consumers"]
    for n, (*_, took), lanes in zip([1, 2, 3, 5], rows, panels.values(), strict=True):
        assert len(lanes) == n and all(lanes.values()), "each of them had an order"
        assert sorted(order for lane in lanes.values() for order, *_ in lane) == list("12345")
        assert -0.002 <= took - math.ceil(5 / n) * WORK < 5  # logs have ms; processes may wait
    assert found["prefetch"][1][1][1] == "5, 5", "slow and fast without a limit"
    assert [row[1:] for row in found["without_ack"][1]] == [[1, 4]]


def test_what_crashes_lose(found: dict[str, Any]) -> None:
    auto, before = ["3 lost, 0 twice", "2 lost, 0 twice"], ["1 lost, 0 twice", "0 lost, 0 twice"]
    after, never = ["0 lost, 0 twice", "0 lost, 1 twice"], ["0 lost, 2 twice", "0 lost, 3 twice"]
    expected = [[*after, 0], [*auto, 0], [*before, 0], [*never, 5]]
    assert [row[1:] for row in found["crashes"][1]] == expected
    assert [row[2:] for row in found["death_of_rabbitmq"][1]] == [[5, 5, 0], [0, 5, 5]]
    *up, direct, again, queue = (row[-2:] for row in found["outage"][1])
    assert [*up, direct, queue] == [[0, 0], [0, 0], [3, 3], [0, 0]]
    assert again[0] >= 1 and again[1] == 0


def test_the_readme_has_each_table_and_picture(found: dict[str, Any], tmp_path: Any) -> None:
    from experiments.report import FOLDER, draw, markdown, renewed

    text = (FOLDER / "README.md").read_text()
    for name, (head, rows, panels) in found.items():
        table = markdown(head, [rows])
        assert table[2] in renewed(text, table)
        if name in ("crashes", "without_ack", "death_of_rabbitmq"):  # without times
            assert "\n".join(table) in text
        if panels:
            draw(tmp_path / f"{name}.svg", panels)
            assert f"(pictures/{name}.svg)" in text
