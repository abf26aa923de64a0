"""The experiments, with short orders: what holds at any speed."""

import json
import math
from contextlib import ExitStack
from typing import Any

import pytest

from experiments.report import FOLDER, markdown
from rig.scripts import Script

Result = dict[str, Any]
WORK = 0.2  # seconds


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The figures of all of them. They mostly wait, so two runs share the time."""
    settings = ["-m", "experiments.measure", "--json", "--work", WORK]
    settings += ["--pictures", tmp_path_factory.mktemp("pictures")]
    found: Result = {}
    with ExitStack() as stack:
        runs = [
            stack.enter_context(Script(*settings, *groups))
            for groups in (["--only", "delivery"], ["--only", "time", "--only", "calls"])
        ]
        for run in runs:
            assert run.wait(200) == 0, run
            text = run.out[run.out.index("\n{") + 1 :]  # amid lines of progress
            found.update(json.JSONDecoder().raw_decode(text)[0])
    return found


def test_five_orders_take_as_many_rounds_as_the_consumers_need(results: Result) -> None:
    took = {result["consumers"]: result for result in results["time"]}
    assert list(took) == [1, 2, 3, 5]
    for count, result in took.items():
        assert sum(result["orders_each"]) == 5
        assert result["theory_s"] == pytest.approx(math.ceil(5 / count) * WORK)
    assert took[5]["orders_each"] == [1] * 5
    limit, no_limit = results["prefetch"]
    assert no_limit["orders_each"] == {"slow": 5, "fast": 5}
    assert limit["orders_each"]["fast"] > 5


def test_only_the_acknowledgement_after_the_work_loses_nothing(results: Result) -> None:
    lost = {
        (result["acknowledgement"], result["crash"]): (result["lost"], result["twice"])
        for result in results["crash"]
    }
    assert lost == {
        ("after", "in mid-work"): (0, 0),
        ("auto", "in mid-work"): (3, 0),
        ("before", "in mid-work"): (1, 0),
        ("never", "in mid-work"): (0, 2),
        ("after", "after the work"): (0, 1),
        ("auto", "after the work"): (2, 0),
        ("before", "after the work"): (0, 0),
        ("never", "after the work"): (0, 3),
    }


def test_a_restart_leaves_persistent_messages_in_durable_queues(results: Result) -> None:
    assert len(results["restart"]) == 6
    for result in results["restart"]:
        if result["before"] is None:
            assert not result["durable"], "RabbitMQ 4.3 refuses transient queues"
            continue
        lasting = result["persistent"] or result["type"] == "quorum"
        assert result["before"] == 5
        assert result["after"] == (5 if result["durable"] and lasting else 0), result


def test_only_a_confirmed_order_is_called_stored(results: Result) -> None:
    loop, producer = results["confirmation"]
    assert (loop["said_before_the_crash"], loop["in_the_queue"]) == (5, 0)
    assert (producer["said_before_the_crash"], producer["in_the_queue"]) == (0, 5)
    assert (producer["said_in_the_end"], producer["status"]) == (5, 0)


def test_the_queue_loses_no_order_while_the_worker_is_down(results: Result) -> None:
    lost = [(r["callers_with_an_error"], r["lost"]) for r in results["outage"]]
    assert lost == [(3, 3), (1, 0), (0, 0)]


def test_the_tables_can_be_filled(results: Result) -> None:
    template = (FOLDER / "README.template.md").read_text()
    assert markdown(results).count("\n## ") == template.count("\n## ")
