"""What the experiments measured, as the README has it: Markdown and pictures."""

from typing import Any, Dict, List, Tuple

from experiments.timelines import Timeline, in_blocks
from rig.measuring import plural, table

Result = Dict[str, Any]

MODES = {
    "after": "`basic_ack` after the work (`consumer.py`)",
    "auto": "automatic (`auto_ack=True`)",
    "before": "`basic_ack` before the work",
    "never": "`basic_ack` forgotten, no prefetch limit",
}
SENDERS = {"loop": "loop without confirmation", "producer": "`producer.py`"}


def timeline(caption: str, result: Result) -> Timeline:
    """Return the timeline of a result."""
    return caption, result["lanes"]


def pictures(results: Result) -> Dict[str, Tuple[str, List[Timeline]]]:
    """Return the name of each picture, its title and what it shows."""
    found: Dict[str, Tuple[str, List[Timeline]]] = {}
    if "time" in results:
        found["consumers"] = (
            "Who had which of five orders, from the first publish on",
            [
                timeline(
                    f"{plural(r['consumers'], 'consumer')}: {r['measured_s']:.3f} s", r
                )
                for r in results["time"]
            ],
        )
        found["prefetch"] = (
            "Ten orders on a slow and a fast consumer",
            [
                timeline(f"{limit_text(r)}: {r['measured_s']:.3f} s", r)
                for r in results["prefetch"]
            ],
        )
    if "calls" in results:
        found["calls"] = (
            "Five orders by direct calls and over the queue",
            [
                timeline(f"{r['way']}: caller held for {r['caller_held']}", r)
                for r in results["calls"]
            ],
        )
        found["outage"] = (
            f"The same, the worker down for {results['outage_s']:g} s in the middle",
            [timeline(outage_text(r), r) for r in results["outage"]],
        )
    return found


def limit_text(result: Result) -> str:
    """Return the prefetch limit in words."""
    return f"prefetch_count={result['prefetch']}" if result["prefetch"] else "no limit"


def outage_text(result: Result) -> str:
    """Return in words what an outage did."""
    lost = plural(result["lost"], "order")
    return f"{result['way']}: {lost} lost, done at {result['last_done_s']:.3f} s"


def drawn(results: Result, name: str) -> str:
    """Return a timeline as a Markdown code block."""
    return f"```text\n{in_blocks(pictures(results)[name][1])}\n```"


def about_time(results: Result) -> List[str]:
    """Return the paragraphs on the time for five orders."""
    seconds = results["prefetch"][0]["work_s"]
    return [
        "### Time for five orders",
        table(
            [
                "consumers",
                "orders each",
                "theory: ceil(5/n) x work",
                "measured",
                "overhead",
            ],
            [
                [
                    r["consumers"],
                    " + ".join(map(str, r["orders_each"])),
                    f"{r['rounds']} x {results['work_s']:g} s = {r['theory_s']:g} s",
                    f"{r['measured_s']:.3f} s",
                    f"{r['overhead_ms']:.0f} ms",
                ]
                for r in results["time"]
            ],
        ),
        "From the first publish to the last acknowledgement,"
        f" ±{results['time'][0]['precision_ms']:g} ms: as exact as the time that"
        " `producer.py` prints.",
        drawn(results, "consumers"),
        "Ten orders on a slow and a fast consumer"
        f" ({seconds['slow']:g} s and {seconds['fast']:g} s an order):",
        table(
            [
                "prefetch_count",
                "orders of the slow one",
                "orders of the fast one",
                "all done after",
            ],
            [
                [
                    r["prefetch"] or "no limit",
                    r["orders_each"]["slow"],
                    r["orders_each"]["fast"],
                    f"{r['measured_s']:.3f} s",
                ]
                for r in results["prefetch"]
            ],
        ),
        drawn(results, "prefetch"),
    ]


def about_delivery(results: Result) -> List[str]:
    """Return the paragraphs on crashes and restarts."""
    counts = {
        "processed": "processed",
        "lost": "lost",
        "twice": "processed twice",
        "begun_twice": "begun twice",
        "left_in_queue": "left in the queue",
    }
    return [
        "### Delivery",
        "A consumer dies (SIGKILL) at the third of five orders, another one then does"
        " what is left:",
        table(
            ["acknowledgement", "crash", *counts.values()],
            [
                [MODES[r["acknowledgement"]], r["crash"], *map(r.get, counts)]
                for r in results["crash"]
            ],
        ),
        "Five confirmed messages, then a restart of the broker in good order:",
        table(
            ["queue", "messages", "after the restart"],
            [
                [
                    f"{r['type']}, {'durable' if r['durable'] else 'transient'}",
                    "persistent" if r["persistent"] else "transient",
                    "refused"
                    if r["before"] is None
                    else f"{r['after']} of {r['before']}",
                ]
                for r in results["restart"]
            ],
        ),
        "A broker that hangs (SIGSTOP) while five orders are sent, dies (SIGKILL) and"
        " comes back:",
        table(
            [
                "sender",
                "what it says",
                "of how many at the crash",
                "in the end",
                "in the queue",
                "exit status",
            ],
            [
                [
                    SENDERS[r["sender"]],
                    r["says"],
                    r["said_before_the_crash"],
                    r["said_in_the_end"],
                    r["in_the_queue"],
                    r["status"],
                ]
                for r in results["confirmation"]
            ],
        ),
    ]


def calls_table(results: List[Result]) -> str:
    """Return what became of five orders, by each way."""
    return table(
        [
            "way",
            "caller held",
            "its whole process",
            "last order done",
            "callers with an error",
            "lost",
        ],
        [
            [
                r["way"],
                r["caller_held"],
                f"{r['caller_process_s']:.3f} s",
                f"{r['last_done_s']:.3f} s",
                r["callers_with_an_error"],
                r["lost"],
            ]
            for r in results
        ],
    )


def about_calls(results: Result) -> List[str]:
    """Return the paragraphs on direct calls and the queue."""
    needs = results["to_operate"]
    boot = f"up after {needs['broker_boot_s']:.1f} s"
    needed = [
        f"nothing (the worker itself: {needs['http_worker_mb']:.0f} MB)",
        f"a broker: {needs['broker_mb']:.0f} MB, {boot}",
    ]
    return [
        "### Asynchronous against synchronous",
        "Five orders, one worker:",
        calls_table(results["calls"]),
        drawn(results, "calls"),
        "The same, the worker killed in its third order, a new one"
        f" {results['outage_s']:g} s later:",
        calls_table(results["outage"]),
        drawn(results, "outage"),
        f"A burst of {results['burst_orders']} orders, each from a caller of its own,"
        f" on two workers, {results['burst_work_s']:g} s of work each:",
        table(
            ["way", "caller's wait, median", "99th percentile", "last order done"],
            [
                [
                    r["way"],
                    f"{r['median_ms']:.0f} ms",
                    f"{r['p99_ms']:.0f} ms",
                    f"{r['last_done_s']:.3f} s",
                ]
                for r in results["burst"]
            ],
        ),
        "A single order without work, from the call until it is done; and what there is"
        " to run for it:",
        table(
            ["way", "median", "99th percentile", "besides the two programs"],
            [
                [r["way"], f"{r['median_ms']:.2f} ms", f"{r['p99_ms']:.2f} ms", need]
                for r, need in zip(results["one_order"], needed)
            ],
        ),
    ]


def markdown(results: Result) -> str:
    """Return all results as the README shows them."""
    parts = [
        f"Measured with RabbitMQ {results['rabbitmq']}, pika {results['pika']},"
        f" Python {results['python']}, {results['cores']} cores; an order takes"
        f" {results['work_s']:g} s of work unless it says otherwise."
    ]
    if "time" in results:
        parts += about_time(results)
    if "crash" in results:
        parts += about_delivery(results)
    if "calls" in results:
        parts += about_calls(results)
    return "\n\n".join(parts)
