"""How many small wrong changes of lcia's core the tests notice.

    python -m bench.mutants [--count 160] [--seed 1] [--only lcia/store ...] [--tests tests/unit ...] [--out FILE]

Draws lines of the core, changes one thing in each (bench/mutations.py) and runs the tests that reach the line, in a
child of this process, which has imported what is heavy once. No file of the checkout is touched: the child imports the
changed module from a folder of its own, and so do the processes that it starts. Prints one JSON object; changes of
equivalent_mutants.json, which no test could notice, count for nothing. Exit code 1: more than 5 % of the rest survived.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest

from bench.mutations import Mutation, mutations

ROOT = Path(__file__).resolve().parent.parent
BAR = 0.05
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
ASIDE = (
    "report/figures/", "report/page.py", "report/run_folder.py", "data/minicoin/drawing.py",
    "data/minicoin/instructions.py", "data/minicoin/questions.py", "data/minicoin/vocabulary.py",
)  # fmt: skip
"""Not the core: pages and figures, made-up pictures and wordings."""
BEYOND = {
    "tests/integration/test_train_distributed.py": (
        "training/parallel.py",
        "assistants/sharded.py",
        "assistants/adapters.py",
        "assistants/llava.py",
        "training/checkpoint.py",
    ),
    "tests/integration/test_ema_distributed.py": ("ema/tracked.py", "ema/buffers.py"),
}
"""Tests in processes of their own, for what a single process never does; asked where the quick ones see nothing."""
HEAVY = (
    "accelerate", "hypothesis", "matplotlib", "numpy", "open_clip", "peft", "pyarrow.dataset", "pydantic", "ray",
    "safetensors.torch", "scipy.stats", "sklearn.feature_extraction.text", "torch.distributed.fsdp", "transformers",
    "transformers.models.llava.modeling_llava", "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip", "yaml", "PIL.Image",
)  # fmt: skip
HOOK = '''
"""Imports one module of lcia from another file than its own (bench/mutants.py)."""
import importlib.util, os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != os.environ["LCIA_MUTANT_MODULE"]:
            return None
        file = os.environ["LCIA_MUTANT_FILE"]
        inside = path and [os.environ["LCIA_MUTANT_FOLDER"]] if os.environ["LCIA_MUTANT_FOLDER"] else None
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
if "LCIA_MUTANT_MODULE" in os.environ:
    sys.meta_path.insert(0, Finder())
'''


@dataclass(frozen=True)
class Reach:
    """Which tests run which lines of a file of lcia, and how long each test takes in seconds.

    A context that names a file alone stands for all of its tests: a fixture ran the line.
    """

    contexts: Mapping[str, Mapping[int, Sequence[str]]]
    seconds: Mapping[str, float]
    failing: Sequence[str]
    """Tests that fail without any change: they are left out, for they would kill everything."""

    def tests(self, mutation: Mutation) -> list[str]:
        lines = self.contexts.get(mutation.file, {})
        first, last = mutation.head
        wanted = lines if mutation.always else range(first, last + 1)
        names = {name for line in wanted for name in lines.get(line, ()) if name}
        if mutation.always:
            # What runs on import runs before any test: those that ask for the module by name may look at it.
            names |= self._importing(mutation.module)
        return [test for test in self.seconds if test in names or test.split("::")[0] in names]

    def _importing(self, module: str) -> set[str]:
        """The files of tests that import a module, by name or from its package."""
        package, _, name = module.rpartition(".")
        wanted = re.compile(
            rf"^(from|import) {re.escape(module)}\b|^from {re.escape(package)} import .*\b{name}\b", re.M
        )
        files = {test.split("::")[0] for test in self.seconds}
        return {file for file in files if wanted.search(Path(file).read_text())}


class Recorder:
    """A pytest plugin: tells coverage which test runs, and remembers the seconds of each."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = defaultdict(float)
        self.failing: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.measured.switch_context(item.nodeid.split("::")[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.measured.switch_context(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self.measured.switch_context(item.nodeid.split("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.skipped:
            self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failing.append(report.nodeid)


class Chosen:
    """A pytest plugin: keeps the named tests, quick files first."""

    def __init__(self, tests: Iterable[str], seconds: Mapping[str, float]) -> None:
        self.tests = set(tests)
        self.files: dict[str, float] = defaultdict(float)
        for test in self.tests:
            self.files[test.split("::")[0]] += seconds[test]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self.tests]
        items[:] = sorted(kept, key=lambda item: self.files[item.nodeid.split("::")[0]])


def main() -> None:
    arguments = _arguments()
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        reach = measure(arguments.tests, Path(scratch))
        _say(f"{len(reach.failing)} tests fail without a change: {', '.join(reach.failing)}")
        _say(f"{len(reach.seconds)} tests pass without a change ({time.monotonic() - began:.0f} s)")
        outcomes = []
        for number, mutation in enumerate(sample(arguments)):
            outcomes.append(judge(mutation, reach, Path(scratch) / str(number), arguments.quick))
            _say(f"{number + 1:4} {outcomes[-1]['outcome']:10} {_where(mutation)}  {mutation.change}")
    summary = {
        "seed": arguments.seed,
        "failing": reach.failing,
        **summarise(outcomes),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(summary, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(summary["survived"] > BAR * (summary["made"] - summary["equivalent"]))


def core() -> list[Path]:
    """The files whose lines are drawn."""
    return sorted(p for p in Path("lcia").rglob("*.py") if not p.relative_to("lcia").as_posix().startswith(ASIDE))


def sample(arguments: argparse.Namespace) -> list[Mutation]:
    """One change in each of `count` lines, every line of the core that can be changed being as likely as any other."""
    by_line: dict[tuple[str, int], list[Mutation]] = defaultdict(list)
    for path in (path for path in core() if any(name in path.as_posix() for name in arguments.only)):
        for mutation in mutations(path.as_posix(), path.read_text()):
            by_line[mutation.file, mutation.line].append(mutation)
    chooser = random.Random(arguments.seed)
    places = chooser.sample(sorted(by_line), min(arguments.count, len(by_line)))
    return [chooser.choice(by_line[place]) for place in places]


def measure(tests: Sequence[str], scratch: Path) -> Reach:
    """Runs all tests once, unchanged."""
    data, times = str(scratch / "coverage"), scratch / "seconds.json"

    def run() -> int:
        measured = coverage.Coverage(data_file=data, source=["lcia"], config_file=False, context="")
        recorder = Recorder(measured)
        measured.start()
        code = pytest.main([*_options(scratch, *tests), "--maxfail=10"], plugins=[recorder])
        measured.stop()
        measured.save()
        seconds = {test: time for test, time in recorder.seconds.items() if test not in recorder.failing}
        times.write_text(json.dumps([seconds, recorder.failing]))
        return code

    code = _in_child(run, scratch / "log", seconds=3600)
    seconds, failing = json.loads(times.read_text()) if times.exists() else ({}, [])
    if code not in (0, 1) or len(failing) == 10:
        sys.exit("the tests fail without any change:\n" + (scratch / "log").read_text()[-3000:])
    found = coverage.CoverageData(data)
    found.read()
    contexts = {str(path): found.contexts_by_lineno(str(path.absolute())) for path in core()}
    return Reach(contexts, seconds, failing)


def judge(mutation: Mutation, reach: Reach, folder: Path, only_quick: bool) -> dict[str, Any]:
    """What becomes of one change: killed (by which test), survived, untested (that is survived), or equivalent."""
    told = {"place": _where(mutation), "line": mutation.text, "change": mutation.change}
    if reason := equivalent(mutation):
        return {**told, "outcome": "equivalent", "reason": reason}
    tests = reach.tests(mutation)
    inside = mutation.file.removeprefix("lcia/")
    quick = [list(tests)] if tests else []
    slow = [] if only_quick else [file for file, files in BEYOND.items() if inside in files]
    folder.mkdir()
    _write(mutation, folder)
    for chosen in quick:
        seconds = sum(reach.seconds[test] for test in chosen)
        longest = max(reach.seconds[test] for test in chosen)
        options = [*_options(folder, *sorted({t.split("::")[0] for t in chosen})), f"--timeout={20 + 5 * longest:.0f}"]
        plugins = [Chosen(chosen, reach.seconds)]
        if _survivor(mutation, folder, lambda: pytest.main(options, plugins=plugins), 60 + 3 * seconds):  # noqa: B023
            continue
        return {**told, "outcome": "killed"}
    for file in slow:
        if not _survivor(mutation, folder, lambda: pytest.main(_options(folder, file)), 1800):  # noqa: B023
            return {**told, "outcome": "killed", "by": file}
    return {**told, "outcome": "survived" if tests or slow else "untested"}


def _survivor(mutation: Mutation, folder: Path, run: Callable[[], int], seconds: float) -> bool:
    """Whether all tests pass with the change; a test that never ends does not."""

    def changed() -> int:
        module = mutation.module
        package = Path(mutation.file).parent.absolute().as_posix() if mutation.file.endswith("__init__.py") else ""
        paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ |= {"LCIA_MUTANT_MODULE": module, "LCIA_MUTANT_FILE": str(folder / "mutant.py"),
                       "LCIA_MUTANT_FOLDER": package, "PYTHONPATH": paths}  # fmt: skip
        exec(compile(HOOK, "sitecustomize.py", "exec"), {})
        return run()

    code = _in_child(changed, folder / "log", seconds)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        sys.exit(f"no test was found for {_where(mutation)}")
    return code == 0


def _write(mutation: Mutation, folder: Path) -> None:
    (folder / "mutant.py").write_text(mutation.source(Path(mutation.file).read_text()))
    (folder / "sitecustomize.py").write_text(HOOK)


def _options(scratch: Path, *tests: str) -> list[str]:
    return ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={scratch / 'tmp'}", *tests]


def _in_child(run: Callable[[], int], log: Path, seconds: float) -> int:
    """The exit code of `run` in a forked process; -1 if that took longer than `seconds`."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = 70
        try:
            code = run()
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    ended: int | None = None
    try:
        while ended is None and time.monotonic() < until:
            time.sleep(0.05)
            done, status = os.waitpid(pid, os.WNOHANG)
            ended = os.waitstatus_to_exitcode(status) if done else None
    finally:
        # Whatever the tests started goes with them, and all of it when this process is interrupted.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    if ended is None:
        os.waitpid(pid, 0)
    return -1 if ended is None else ended


def equivalent(mutation: Mutation) -> str | None:
    """The reason why no test could notice this change, if it is a known one."""
    known = json.loads(EQUIVALENT.read_text())
    return next(
        (
            entry["reason"]
            for entry in known
            if (entry["file"], entry["line"], entry["change"]) == (mutation.file, mutation.text, mutation.change)
        ),
        None,
    )


def summarise(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = {name: sum(o["outcome"] == name for o in outcomes) for name in ("killed", "equivalent")}
    alive = [outcome for outcome in outcomes if outcome["outcome"] in ("survived", "untested")]
    tried = len(outcomes) - counts["equivalent"]
    share = round(len(alive) / tried, 4) if tried else 0.0
    return {"made": len(outcomes), **counts, "survived": len(alive), "share": share, "survivors": alive}


def _where(mutation: Mutation) -> str:
    return f"{mutation.file}:{mutation.line}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=160, help="lines to change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["lcia"], help="files or folders, while you write their tests")
    parser.add_argument("--tests", nargs="+", default=["tests/unit"], help="where the quick tests are")
    parser.add_argument("--quick", action="store_true", help="leave out the tests in processes of their own")
    parser.add_argument("--out", type=Path, help="also write the JSON object to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
