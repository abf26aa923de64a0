"""What was measured, as tables in two languages, and as a picture made of text."""

import re
import statistics

Cell = str | int | float  # a float is seconds
Table = list[tuple[Cell, ...]]  # what a run has found: the head, then the rows
Lane = list[tuple[str, float, float]]  # which orders a consumer had: number, begin, end (seconds)

RUSSIAN = {
    "consumers": "число обработчиков",
    "orders each": "заказов у каждого",
    "ceil(5/n) × work": "ceil(5/n) × время на заказ",
    "measured": "измерено",
    "acknowledgement": "подтверждение",
    "killed in mid-work": "убит во время работы",
    "killed right after the work": "убит сразу после неё",
    "`basic_ack` after the work (`consumer.py`)": "`basic_ack` после работы (`consumer.py`)",
    "automatic (`auto_ack=True`)": "автоматическое (`auto_ack=True`)",
    "`basic_ack` before the work, no prefetch limit": "`basic_ack` до работы, без `prefetch_count`",
    "`basic_ack` forgotten, no prefetch limit": "`basic_ack` забыт, без `prefetch_count`",
    "`basic_ack` forgotten in `consumer.py`": "`basic_ack` забыт в `consumer.py`",
    "0 lost": "потеряно 0",
    "1 lost": "потерян 1",
    "2 lost": "потеряно 2",
    "3 lost": "потеряно 3",
    "1 processed twice": "1 обработан дважды",
    "2 processed twice": "2 обработаны дважды",
    "3 processed twice": "3 обработаны дважды",
    "stops after 1 order": "останавливается после 1 заказа",
    "4 wait": "4 ждут",
    "five orders, one worker": "пять заказов, один обработчик",
    "caller runs for": "отправитель работал",
    "last processed after": "последний обработан через",
    "failed calls": "неудачных вызовов",
    "not processed": "не обработано",
    "direct calls": "прямые вызовы (HTTP)",
    "queue": "очередь",
    "worker down for 5 s: direct calls": "сбой на 5 с: прямые вызовы",
    "worker down for 5 s: direct calls, repeated": "сбой на 5 с: прямые вызовы с повторами",
    "worker down for 5 s: queue": "сбой на 5 с: очередь",
    "never": "никогда",
}


def cell(values: list[Cell]) -> str:
    """Return the runs' values: the median and the range of seconds, or what they were."""
    seconds = [value for value in values if isinstance(value, float)]
    if len(seconds) < len(values):
        return " or ".join(dict.fromkeys(map(str, values)))
    figures = (min(seconds), statistics.median(seconds), max(seconds))
    low, middle, high = (f"{figure:.2f}" for figure in figures)
    return f"{middle} s" if low == high else f"{middle} ({low}–{high}) s"


def markdown(runs: list[Table]) -> str:
    """Return a table: in each cell what all the runs have found."""
    rows = [
        [cell(list(same)) for same in zip(*row, strict=True)] for row in zip(*runs, strict=True)
    ]
    head, *others = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join([head, "|" + "---|" * len(rows[0]) + "\n", *others])


def in_russian(table: str) -> str:
    """Return a table in Russian; what is not in the dictionary keeps its words."""

    def translated(found: re.Match[str]) -> str:
        text = found[0]
        if text in RUSSIAN:
            return RUSSIAN[text]
        parts = [RUSSIAN.get(part, part) for part in text.split(", ")]
        figures = re.sub(r"(\d)\.(\d)", r"\1,\2", ", ".join(parts))
        return re.sub(r"(?<=[\d)]) s$", " с", figures)

    return re.sub(r"(?<=\| )[^|\n]+(?= \|)", translated, table)


def picture(lanes_by_count: dict[int, list[Lane]]) -> str:
    """Return a picture of who had which order when, as a block of code in Markdown.

    A line is a consumer; in front of the first of them stands how many there were.
    """
    axis = "".join(str(second).ljust(7) for second in range(0, 11, 2))
    lines = ["t, s  " + axis.rstrip()]
    for count, lanes in lanes_by_count.items():
        for number, lane in enumerate(lanes):
            text = " " * 6 if number else f"n = {count} "
            for order, begin, end in lane:
                text = text.ljust(6 + round(3.5 * begin))
                text += f"[{order:-^{round(3.5 * (end - begin)) - 2}}]"
            lines.append(text)
    return "```\n" + "\n".join(lines) + "\n```\n"


def renewed(text: str, table: str) -> str:
    """Return the text with this table for the one, if any, that has its head."""
    head = re.escape(table.splitlines()[0])
    return re.sub(rf"(?m)^{head}\n(\|.*\n)*", lambda _: table, text)
