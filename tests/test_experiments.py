"""The experiments and the benchmark, made short: what holds at any speed, and what they leave behind."""

import contextlib
import json
import math
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Dict, Tuple

import benchmark
import pytest
from experiments import MODES, RESTART, markdown
from support import ROOT, Script

EXPERIMENTS = ROOT / "tests" / "experiments.py"
BENCHMARK = ROOT / "tests" / "benchmark.py"
WORK = 0.2  # seconds

Counts = Dict[Tuple[str, str], Dict[str, Any]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run puts its pictures."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def results(pictures: Path) -> Dict[str, Any]:
    """The figures of all experiments and of the benchmark. They mostly wait, so three runs share the time."""
    settings = ("--json", "--work", WORK, "--pictures", pictures)
    with contextlib.ExitStack() as stack:
        delivery = stack.enter_context(Script(EXPERIMENTS, *settings, "--only", "delivery"))
        others = stack.enter_context(Script(EXPERIMENTS, *settings, "--only", "time", "--only", "calls"))
        # With pika alone: the other peers are not in this environment.
        peers = stack.enter_context(Script(BENCHMARK, "--quick", "--json", "--only", "pika"))
        for run in (delivery, others, peers):
            assert run.wait(limit=300) == 0, run
    return {**json.loads(delivery.out), **json.loads(others.out), "benchmark": json.loads(peers.out)}


def test_five_orders_take_as_many_rounds_as_the_consumers_need(results: Dict[str, Any]) -> None:
    took = {result["consumers"]: result for result in results["time"]}
    assert list(took) == [1, 2, 3, 5]
    for count, result in took.items():
        assert sum(result["orders_each"]) == 5
        assert result["theory_s"] == pytest.approx(math.ceil(5 / count) * WORK)
        assert result["measured_s"] > result["theory_s"] - 0.01, "no order is done in less than its work"
    assert took[2]["measured_s"] < took[1]["measured_s"]


def test_a_prefetch_limit_leaves_orders_to_the_consumer_that_is_free(results: Dict[str, Any]) -> None:
    limit, no_limit = results["prefetch"]
    assert no_limit["orders_each"] == {"slow": 5, "fast": 5}
    assert limit["orders_each"]["fast"] > 5
    assert limit["measured_s"] < no_limit["measured_s"]


def test_only_the_acknowledgement_after_the_work_loses_nothing(results: Dict[str, Any]) -> None:
    counts: Counts = {(r["acknowledgement"], r["crash"]): r for r in results["crash"]}
    assert len(counts) == 2 * len(MODES)
    lost = {key: (result["lost"], result["twice"]) for key, result in counts.items()}
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
    for (mode, _), result in counts.items():
        assert result["processed"] + result["lost"] == 5
        assert result["left_in_queue"] == (5 if mode == "never" else 0)


def test_a_restart_leaves_persistent_messages_in_durable_queues(results: Dict[str, Any]) -> None:
    assert len(results["restart"]) == len(RESTART)
    for result in results["restart"]:
        if result["before"] is None:
            assert not result["durable"], "only transient queues may be refused"
            continue
        assert result["before"] == 5
        survives = result["durable"] and (result["persistent"] or result["type"] == "quorum")
        assert result["after"] == (5 if survives else 0), result


def test_only_a_confirmed_order_is_called_sent(results: Dict[str, Any]) -> None:
    loop, producer = results["confirmation"]
    assert (loop["said_sent_before_the_crash"], loop["in_the_queue"]) == (5, 0)
    assert (producer["said_sent_before_the_crash"], producer["in_the_queue"]) == (0, 5)
    assert (producer["said_sent_in_the_end"], producer["status"]) == (5, 0)


def test_the_queue_holds_no_caller_and_loses_no_order(results: Dict[str, Any]) -> None:
    direct, queued = results["calls"]
    assert direct["caller_process_s"] > 5 * WORK
    assert queued["last_done_s"] > 5 * WORK - 0.01, "the same worker is no faster"
    lost = {r["way"]: (r["callers_with_an_error"], r["lost"]) for r in results["outage"]}
    assert lost == {
        "direct calls": (3, 3),
        "direct calls, called again until answered": (1, 0),
        "queue": (0, 0),
    }
    at_once, buffered = results["burst"]
    assert buffered["median_ms"] < at_once["median_ms"]


def test_what_is_printed(results: Dict[str, Any], pictures: Path) -> None:
    text = markdown(results)
    for heading in ("Time for five orders", "Delivery", "Asynchronous against synchronous"):
        assert f"### {heading}\n" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 9
    for rows in tables:
        assert len({row.count("|") for row in rows}) == 1, rows
    assert text.count("```") == 2 * len(list(pictures.iterdir())) == 8
    for picture in pictures.iterdir():
        assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with Script(EXPERIMENTS, "--pictures", tmp_path, TMPDIR=str(tmp_path)) as run:
        run.wait_for("time for five orders", "stderr")
        run.signal(signal.SIGTERM)
        assert run.wait() != 0
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in subprocess.check_output(["ps", "-eo", "args"], text=True)


def test_the_benchmark_runs_from_end_to_end(results: Dict[str, Any]) -> None:
    measured = results["benchmark"]
    assert [result["setting"] for result in measured["send"]] == ["safest", "default", "safest"]
    assert [result["setting"] for result in measured["drain"]] == ["safest", "default", "safest"]
    for result in measured["send"] + measured["drain"]:
        assert 0 < result["min_s"] <= result["median_s"] <= result["max_s"]
        assert result["mb"] > 1 and result["start_up_s"] > 0
    assert [result["consumers"] for result in measured["consumers"]] == [1, 2]
    assert len(measured["drained_backlog"]["tenths"]) == 10
    assert "### Sending 1000 orders" in benchmark.markdown(measured)
