"""Break the scripts, one place after the other: do the tests notice?

    tests/run mutate [--only producer|consumer|both] [N ...]

mutations.txt says what is put where; N are the numbers of some mutations. Each is made
in a copy of the checkout, in which the tests of SUITE run until the first one fails.
What no test notices is either a test that is missing or a line that is of no use.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

from rig.programs import run
from rig.scripts import ROOT, TESTS

# The cheap ones first. Not test_scripts.py, which notices any difference between the
# scripts' common parts, nor what does not look at the scripts.
SUITE = [
    "tests/test_orders.py",
    "tests/test_producer.py",
    "tests/test_consumer.py",
    "tests/test_permissions.py",
    "tests/test_security.py",
    "tests/test_malformed.py",
    "tests/test_faults.py",
]
COMMAND = "-m pytest -c tests/pyproject.toml --rootdir . -x"
LIMIT = 600  # seconds for the suite; what takes longer is caught as well


class Mutation(NamedTuple):
    """One change of one script, or the same in both."""

    number: int
    where: str  # producer, consumer or both
    name: str
    old: str
    new: str
    likely: str  # arguments for pytest: the tests that ought to catch it
    equivalent: str  # why it changes nothing, if it does not

    def scripts(self) -> List[str]:
        """Return the names of the files that it changes."""
        names = ["producer", "consumer"] if self.where == "both" else [self.where]
        return [f"{name}.py" for name in names]

    def apply(self, source: str) -> str:
        """Return a script with the mutation in it."""
        before, *after = f"\n{source}".split(f"\n{self.old}")
        if len(after) != 1:
            raise ValueError(f"{self.number} {self.name}: {len(after)} places for it")
        mutant = f"{before}\n{self.new}{after[0]}"
        compile(mutant, self.name, "exec")
        return mutant


def read_table(text: str) -> Iterator[Mutation]:
    """Return the mutations in mutations.txt; its first lines say how it is written."""
    blocks = re.split("\n{2,}", re.sub("^#.*\n", "", text, flags=re.MULTILINE).strip())
    for number, block in enumerate(blocks, start=1):
        head, *rest = block.splitlines()
        where, _, name = head[1:].partition("] ")
        lines: Dict[str, List[str]] = {sign: [] for sign in "-+?="}
        for line in rest:
            lines[line[0]].append(line[1:])
        old, new, likely, equivalent = ("\n".join(lines[sign]) for sign in "-+?=")
        yield Mutation(number, where, name, old, new, likely, equivalent)


def stale(mutations: List[Mutation]) -> Iterator[str]:
    """Return what is wrong with mutations that do not fit the scripts."""
    for mutation in mutations:
        for script in mutation.scripts():
            try:
                mutation.apply((ROOT / script).read_text())
            except (ValueError, SyntaxError) as error:
                yield f"mutations.txt, {script}: {error}"


@contextlib.contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """Give a copy of the files that git knows or would add; remove it at the end."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="orders-mutate-") as folder:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():  # not if it was deleted
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        yield Path(folder)


def failure(folder: Path, tests: List[str]) -> str:
    """Run tests in the copy; return the first that fails, or nothing."""
    with subprocess.Popen(
        [sys.executable, *COMMAND.split(), *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    ) as pytest:
        try:
            output, _ = pytest.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return f"more than {LIMIT} s"
        finally:
            pytest.terminate()  # so that it cleans up, if it still runs
    if pytest.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", output, re.MULTILINE)
    if not failed or "RabbitMQ does not boot" in output:
        raise RuntimeError(f"the tests did not run:\n{output}")
    return failed[1]


def judge(mutation: Mutation) -> str:
    """Make a mutation; return the test that catches it, or nothing."""
    with copy_of_checkout() as folder:
        for script in mutation.scripts():
            path = folder / script
            path.write_text(mutation.apply(path.read_text()))
        likely = shlex.split(mutation.likely)
        return (likely and failure(folder, likely)) or failure(folder, SUITE)


def verdict(mutation: Mutation) -> str:
    """Judge a mutation, and say it; return "caught", "equivalent" or "survived"."""
    start = time.monotonic()
    caught = judge(mutation)
    what = "caught" if caught else "equivalent" if mutation.equivalent else "survived"
    why = caught or mutation.equivalent
    title = f"{mutation.number:3} {mutation.where:8} {mutation.name}"
    print(f"{title}\n    {what}, {time.monotonic() - start:.0f} s: {why}", flush=True)
    return what


def main() -> int:
    """Make the mutations, and report which ones survive."""
    parser = argparse.ArgumentParser(usage="tests/run mutate [--only SCRIPT] [N ...]")
    parser.add_argument("--only", choices=["producer", "consumer", "both"])
    parser.add_argument("numbers", nargs="*", type=int)
    options = parser.parse_args()
    mutations = list(read_table((TESTS / "mutations" / "mutations.txt").read_text()))
    errors = list(stale(mutations))
    if errors:
        sys.exit("\n".join(errors))
    chosen = [
        mutation
        for mutation in mutations
        if options.only in (None, mutation.where)
        and (mutation.number in options.numbers or not options.numbers)
    ]
    if not options.numbers:
        with copy_of_checkout() as folder:
            failed = failure(folder, SUITE)
        if failed:
            sys.exit(f"{failed} fails without any mutation")
    verdicts = [verdict(mutation) for mutation in chosen]
    print("; ".join(f"{count} {what}" for what, count in Counter(verdicts).items()))
    for mutation, what in zip(chosen, verdicts):
        if what == "survived":
            print(f"survived: {mutation.number} {mutation.where}: {mutation.name}")
    return int("survived" in verdicts)


if __name__ == "__main__":
    run(main)
