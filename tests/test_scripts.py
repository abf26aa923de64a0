"""What can be told from the two scripts' text: their shape, and that they agree with
one another.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Set

import pytest

from rig.scripts import CONSUMER, PRODUCER, ROOT

SCRIPTS = [CONSUMER, PRODUCER]


def definitions(path: Path) -> Dict[str, str]:
    """Return the source of each function and constant of a script, by its name."""
    source = path.read_text()
    found = {}
    for node in ast.parse(source).body:
        names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names += (
                [name.id for name in ast.walk(target) if isinstance(name, ast.Name)]
                if target
                else []
            )
        for name in names:
            found[name] = ast.get_source_segment(source, node) or ""
    return found


BEGIN = "# producer.py and consumer.py do not import each other"
END = "# Here begins what only"


def common_part(path: Path) -> str:
    """Return what both scripts share, from its first comment to what comes after."""
    text = path.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    return text[text.index(BEGIN) : text.index(END)]


def test_common_part_is_the_same_word_for_word() -> None:
    assert common_part(CONSUMER) == common_part(PRODUCER)
    for name in ("QUEUES = ", "def parse_order(", "def connect("):
        assert name in common_part(CONSUMER)


def test_nothing_else_is_defined_in_both() -> None:
    ours, theirs = definitions(CONSUMER), definitions(PRODUCER)
    both = ours.keys() & theirs.keys() - {"main"}
    assert all(ours[name] in common_part(CONSUMER) for name in both)
    assert both >= {"QUEUE", "DEAD_LETTER_QUEUE", "QUEUES", "parse_order", "connect"}


def docstrings(tree: ast.AST) -> Set[int]:
    """Return the numbers of the lines that are docstrings."""
    lines: Set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            continue
        if ast.get_docstring(node):
            text = node.body[0]
            lines |= set(range(text.lineno, (text.end_lineno or 0) + 1))
    return lines


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_no_puzzle(path: Path) -> None:
    """What is short is not dense: lines, their length, functions, and spellings."""
    text = path.read_text()
    lines, tree = text.splitlines(), ast.parse(text)
    hidden = docstrings(tree)
    code = [
        line.strip()
        for number, line in enumerate(lines, 1)
        if number not in hidden and line.strip() and not line.strip().startswith("#")
    ]
    assert max(map(len, lines)) <= 88
    assert sum(map(len, code)) / len(code) <= 42
    for node in ast.walk(tree):
        assert not isinstance(node, ast.NamedExpr)
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 45, node.name
            own = set(range(node.lineno, (node.end_lineno or 0) + 1)) - hidden
            assert len(own) <= 31, node.name
    assert "import re\n" not in text


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_stands_alone(path: Path) -> None:
    source = path.read_text()
    imported: Set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert not imported & {"consumer", "producer"}
    if sys.version_info >= (3, 10):
        assert imported - set(sys.stdlib_module_names) == {"pika"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_written_in_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_carries_its_requirements(path: Path) -> None:
    """PEP 723 has the regular expression."""
    pattern = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    block = re.search(pattern, path.read_text())
    assert block and block["type"] == "script"
    metadata = [line[2:] for line in block["content"].splitlines()]
    assert metadata == ['requires-python = ">=3.8"', 'dependencies = ["pika>=1.3,<2"]']


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_says_what_to_do_without_pika(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-S", str(path)], capture_output=True, text=True
    )
    assert run.returncode == 1
    advice = "python3 -m pip install pika (apt: python3-pika)"
    assert run.stderr == f"pika is missing: {advice}\n"


def test_top_level_holds_the_five_entries_only() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    )
    names = {name.split("/")[0] for name in tracked.stdout.splitlines()} or {
        p.name for p in ROOT.iterdir()
    }
    visible = {name for name in names if not name.startswith(".")}
    assert visible == {
        "README.md",
        "consumer.py",
        "docker-compose.yml",
        "producer.py",
        "tests",
    }
