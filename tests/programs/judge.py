"""Stands in for an evaluation suite: reads the adapter's configuration and writes figures as JSON.

judge.py OUTPUT LOG [ADAPTER]: a line for each call is added to LOG; with LOG `fail` it ends with an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(output: str, log: str, adapter: str = "") -> None:
    if log == "fail":
        print("loading the model")
        sys.exit("no such benchmark: POPE")
    rank = json.loads((Path(adapter) / "adapter_config.json").read_text())["r"] if adapter else 0
    weights = Path(adapter, "adapter_model.safetensors").stat().st_size if adapter else 0
    with Path(log).open("a") as calls:
        calls.write(f"{'adapter' if adapter else 'base'}\n")
    figures = {"results": {"pope": {"alias": "pope", "accuracy,none": 0.25 + rank / 16}}, "bytes": weights}
    Path(output).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
