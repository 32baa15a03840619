"""Whether two commits train the same, bit for bit: keys of stages, adapters, what they keep, answers.

    python -m bench.same_results before.json --lcia OTHER/.venv/bin/lcia    # a checkout of the other commit
    python -m bench.same_results after.json
    python -m bench.same_results before.json after.json                     # compares; exit code 1: they differ

Runs the quickstart and two small studies (all strategies, with and without groups; all orders of three tasks) by their
commands alone, so that it can run any commit, and writes {key of a stage: {file: digest}}. Three to six minutes each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = ["base.benchmark.train_size=120", "base.benchmark.validation_size=8", "base.benchmark.test_size=12"]
METHODS = """
name: methods
base:
  benchmark: {kind: minicoin, tasks: [VQAv2, Grounding, OCR-VQA]}
  training: {max_steps: 6}
methods:
  sequential: {strategy.kind: sequential, grouping.enabled: false}
  multitask: {protocol: multitask}
  fixed: {strategy.kind: fixed, strategy.retain: 0.3}
  paper: {strategy.kind: paper, grouping.enabled: false}
  official: {strategy.kind: official, grouping.enabled: false}
  proximal: {strategy.kind: proximal, grouping.enabled: false}
  curvature: {strategy.kind: curvature, grouping.enabled: false}
  ewc: {strategy.kind: ewc, strategy.pull: 10000, grouping.enabled: false}
  curvature-grouped: {strategy.kind: curvature}
"""
ORDERS = """
name: orders
base:
  benchmark: {kind: minicoin, tasks: [VQAv2, Grounding, OCR-VQA]}
  training: {max_steps: 4}
  strategy: {kind: proximal}
  grouping: {enabled: false}
methods: {proximal: {}}
orders: all
"""
KEPT = (".safetensors", ".parquet", "answers.jsonl", "adapter_config.json")


def results(lcia: str, folder: Path) -> dict[str, dict[str, str]]:
    """Digests of what the quickstart and two studies store, by stage and file."""
    for name, text in (("methods", METHODS), ("orders", ORDERS)):
        (folder / f"{name}.yaml").write_text(text)
        run = [lcia, "study", f"{name}.yaml", *SMALL, "--set", f"storage={folder / name}"]
        subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = [lcia, "quickstart", "--storage", str(folder / "quickstart")]
    subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[str, dict[str, str]] = {}
    for record in sorted(folder.glob("*/store/??/*/stage.json")):
        stage = record.parent
        files = [path for path in sorted(stage.rglob("*")) if path.name.endswith(KEPT)]
        digests = {str(path.relative_to(stage)): hashlib.blake2b(path.read_bytes()).hexdigest()[:32] for path in files}
        found[f"{stage.parents[2].name}/{json.loads(record.read_text())['kind']}/{stage.name}"] = digests
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="one: written; two: compared")
    parser.add_argument("--lcia", default=str(Path(sys.executable).with_name("lcia")), help="the command to run")
    given = parser.parse_args()
    if len(given.files) == 1:
        with tempfile.TemporaryDirectory() as folder:
            found = results(str(Path(given.lcia).absolute()), Path(folder))
        given.files[0].write_text(json.dumps(found, indent=1))
        print(f"{len(found)} stages, {sum(map(len, found.values()))} files")
        return 0
    before, after = (json.loads(file.read_text()) for file in given.files[:2])
    differing = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    alone = sorted(before.keys() ^ after.keys())
    print(f"{len(before)} stages before, {len(after)} after; {len(alone)} in one alone, {len(differing)} differ")
    for key in [*alone, *sorted(differing)][:20]:
        print(key)
    return int(bool(alone or differing))


if __name__ == "__main__":
    sys.exit(main())
