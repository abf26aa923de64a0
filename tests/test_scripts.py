"""What can be told from the two scripts' text: their shape, and that they agree with one another."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest
from support import CONSUMER, PRODUCER, ROOT

SCRIPTS = [CONSUMER, PRODUCER]


def definitions(path: Path) -> Dict[str, str]:
    """Return the source of each function and constant of a script, by its name."""
    source = path.read_text()
    found = {}
    for node in ast.parse(source).body:
        names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names += [name.id for name in ast.walk(target) if isinstance(name, ast.Name)] if target else []
        for name in names:
            found[name] = ast.get_source_segment(source, node) or ""
    return found


def test_both_define_queues_and_orders_word_for_word_alike() -> None:
    ours, theirs = definitions(CONSUMER), definitions(PRODUCER)
    both = ours.keys() & theirs.keys() - {"main"}
    assert both >= {"QUEUE", "DEAD_LETTER_QUEUE", "QUEUES", "parse_order", "connect"}
    assert {name: ours[name] for name in both} == {name: theirs[name] for name in both}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_short_and_stands_alone(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 190
    imported = {name.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)
                for name in node.names}
    imported |= {str(node.module) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"consumer", "producer"}
    if sys.version_info >= (3, 10):
        assert imported - set(sys.stdlib_module_names) == {"pika"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_written_in_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_carries_its_requirements(path: Path) -> None:
    """PEP 723: a block of comments between "# /// script" and "# ///"; this is its own regular expression."""
    pattern = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    block = re.search(pattern, path.read_text())
    assert block and block["type"] == "script"
    metadata = [line[2:] for line in block["content"].splitlines()]
    assert metadata == ['requires-python = ">=3.8"', 'dependencies = ["pika>=1.3,<2"]']


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_says_what_to_do_without_pika(path: Path) -> None:
    run = subprocess.run([sys.executable, "-S", str(path)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "pika is missing: python3 -m pip install pika (or: apt install python3-pika)\n"


def test_top_level_holds_the_five_entries_only() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = {name.split("/")[0] for name in tracked.stdout.splitlines()} or {p.name for p in ROOT.iterdir()}
    visible = {name for name in names if not name.startswith(".")}
    assert visible == {"README.md", "consumer.py", "docker-compose.yml", "producer.py", "tests"}
