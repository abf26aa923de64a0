"""The experiments and the benchmark, short: what holds at any speed, what is left."""

import contextlib
import json
import math
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Dict, List, Tuple

import psutil
import pytest

import benchmark.measure as benchmark
from experiments.measure import (
    MODES,
    README_PICTURES,
    RESTART,
    parse_arguments,
    restart,
)
from experiments.report import markdown
from rig.broker import LIMIT
from rig.measuring import family
from rig.programs import own_broker
from rig.scripts import ROOT, TESTS, Script

WORK = 0.2  # seconds

Result = Dict[str, Any]


def module(*arguments: object, **environment: Any) -> Script:
    """Start a program as tests/run does."""
    return Script("-m", *arguments, PYTHONPATH=str(TESTS), **environment)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run puts its pictures."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def results(pictures: Path) -> Result:
    """The figures of all of them. They mostly wait, so three runs share the time."""
    settings = ("experiments.measure", "--json", "--work", WORK, "--pictures", pictures)
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(run)
            for run in (
                module(*settings, "--only", "delivery"),
                module(*settings, "--only", "time", "--only", "calls"),
                # With pika alone: the other peers are not in this environment.
                module("benchmark.measure", "--quick", "--json", "--only", "pika"),
            )
        ]
        for run in runs:
            assert run.wait(limit=300) == 0, run
    delivery, others, peers = [json.loads(run.out) for run in runs]
    return {**delivery, **others, "benchmark": peers}


def test_five_orders_take_as_many_rounds_as_the_consumers_need(
    results: Result,
) -> None:
    took = {result["consumers"]: result for result in results["time"]}
    assert list(took) == [1, 2, 3, 5]
    for count, result in took.items():
        assert sum(result["orders_each"]) == 5
        assert result["theory_s"] == pytest.approx(math.ceil(5 / count) * WORK)
        assert result["measured_s"] > result["theory_s"] - 0.01, (
            "no order is done in less than its work"
        )
    assert took[2]["measured_s"] < took[1]["measured_s"]


def test_a_prefetch_limit_leaves_orders_to_the_consumer_that_is_free(
    results: Result,
) -> None:
    limit, no_limit = results["prefetch"]
    assert no_limit["orders_each"] == {"slow": 5, "fast": 5}
    assert limit["orders_each"]["fast"] > 5
    assert limit["measured_s"] < no_limit["measured_s"]


def test_only_the_acknowledgement_after_the_work_loses_nothing(
    results: Result,
) -> None:
    counts: Dict[Tuple[str, str], Result] = {
        (result["acknowledgement"], result["crash"]): result
        for result in results["crash"]
    }
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


def check_restart(results: List[Result]) -> None:
    """Check that of what was not refused, exactly what is durable has survived."""
    assert len(results) == len(RESTART)
    for result in results:
        if result["before"] is None:
            assert not result["durable"], "only transient queues may be refused"
            assert result["after"] is None
            continue
        assert result["before"] == 5
        lasting = result["persistent"] or result["type"] == "quorum"
        assert result["after"] == (5 if result["durable"] and lasting else 0), result


def test_a_restart_leaves_persistent_messages_in_durable_queues(
    results: Result,
) -> None:
    check_restart(results["restart"])


def test_a_broker_that_refuses_transient_queues_is_no_obstacle(results: Result) -> None:
    """As RabbitMQ 4.3 does by itself, and 3.10 never."""
    if int(results["rabbitmq"].split(".")[0]) < 4:
        assert [result["before"] for result in results["restart"]] == 6 * [5]
        return
    refuse = "deprecated_features.permit.transient_nonexcl_queues = false\n"
    with own_broker("test", refuse) as (broker, _):
        found = restart(broker)
    assert [result["before"] for result in found] == [5, 5, None, None, 5, 5]
    check_restart(found)


def test_only_a_confirmed_order_is_called_stored(results: Result) -> None:
    loop, producer = results["confirmation"]
    assert (loop["says"], producer["says"]) == ("Sent", "Stored")
    assert (loop["said_before_the_crash"], loop["in_the_queue"]) == (5, 0)
    assert (producer["said_before_the_crash"], producer["in_the_queue"]) == (0, 5)
    assert (producer["said_in_the_end"], producer["status"]) == (5, 0)


def test_the_queue_holds_no_caller_and_loses_no_order(results: Result) -> None:
    direct, queued = results["calls"]
    assert direct["caller_process_s"] > 5 * WORK
    assert queued["last_done_s"] > 5 * WORK - 0.01, "the same worker is no faster"
    lost = {
        r["way"]: (r["callers_with_an_error"], r["lost"]) for r in results["outage"]
    }
    assert lost == {
        "direct calls": (3, 3),
        "direct calls, called again until answered": (1, 0),
        "queue": (0, 0),
    }
    at_once, buffered = results["burst"]
    assert buffered["median_ms"] < at_once["median_ms"]


def test_what_is_printed(results: Result, pictures: Path) -> None:
    text = markdown(results)
    for heading in (
        "Time for five orders",
        "Delivery",
        "Asynchronous against synchronous",
    ):
        assert f"### {heading}\n" in text
    tables = [
        block.splitlines() for block in text.split("\n\n") if block.startswith("|")
    ]
    assert len(tables) == 9
    for rows in tables:
        assert len({row.count("|") for row in rows}) == 1, rows
    assert text.count("```") == 2 * len(list(pictures.iterdir())) == 8
    for picture in pictures.iterdir():
        assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_pictures_of_the_readme_are_replaced_only_when_told(pictures: Path) -> None:
    if shutil.which("git"):
        ignored = ["git", "check-ignore", "--quiet", parse_arguments([]).pictures]
        assert subprocess.run(ignored, cwd=ROOT).returncode != 1, "it is not ignored"
    assert parse_arguments(["--renew-pictures"]).pictures == README_PICTURES
    drawn = {picture.name for picture in pictures.iterdir()}
    assert {picture.name for picture in README_PICTURES.glob("*.svg")} == drawn


@pytest.mark.parametrize(
    "program, begun",
    [
        (["experiments.measure", "--pictures"], "time for five orders"),
        (["benchmark.measure", "--only", "pika"], "send 10000"),
    ],
)
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, program: List[str], begun: str
) -> None:
    pictures = [tmp_path] if "--pictures" in program else []
    with module(*program, *pictures, TMPDIR=str(tmp_path)) as run:
        run.wait_for(begun, "stderr")
        started = family(run.process.pid)[1:]
        assert started, "a broker at least"
        run.signal(signal.SIGTERM)
        assert run.wait() == 130
    _, alive = psutil.wait_procs(started, LIMIT)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
    processes = subprocess.check_output(["ps", "-eo", "args"], text=True)
    assert str(tmp_path) not in processes


def test_the_benchmark_runs_from_end_to_end(results: Result) -> None:
    measured = results["benchmark"]
    assert [result["setting"] for result in measured["send"]] == [
        "safest",
        "default",
        "safest",
    ]
    assert [result["setting"] for result in measured["drain"]] == [
        "safest",
        "default",
        "safest",
    ]
    for result in measured["send"] + measured["drain"]:
        assert 0 < result["min_s"] <= result["median_s"] <= result["max_s"]
        assert result["mb"] > 1 and result["start_up_s"] > 0
    assert [result["consumers"] for result in measured["consumers"]] == [1, 2]
    assert len(measured["drained_backlog"]["tenths"]) == 10
    assert "### Sending 1000 orders" in benchmark.markdown(measured)


def test_each_way_to_drain_has_a_way_to_send() -> None:
    senders = {(way.group, way.setting) for way in benchmark.SEND}
    assert {(way.group, way.setting) for way in benchmark.DRAIN} == senders
    names = [way.name for way in benchmark.DRAIN]
    assert len(names) == len(set(names))
    for way in benchmark.SEND + benchmark.DRAIN:
        assert way.program[0] == "-m" or Path(str(way.program[0])).is_file()
