"""What is light stays light: planning imports no torch, --help neither torch nor Ray nor MLflow."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = (
    "types config.run stage store.folders plan run studies.points grouping.codebook metrics.matrix metrics.scoring "
    "config.load evaluation.answers data.shards"
)


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ([f"lcia.{name}" for name in LIGHT.split()], ["torch", "transformers", "peft", "ray", "mlflow"]),
        (["pipelines.cli"], ["torch", "transformers", "ray", "mlflow", "matplotlib"]),
        (
            ["pipelines.cli", "pipelines.terminal.inputs"],
            ["numpy", "pyarrow", "pandas", "sklearn", "torch", "ray", "mlflow"],
        ),
        (
            ["lcia.models.preflight", "pipelines.terminal.preflight"],
            ["torch", "transformers", "peft", "ray", "mlflow", "sklearn"],
        ),
        (["lcia.local", "lcia.report.run_folder"], ["ray", "mlflow", "typer"]),
    ],
)
def test_imports_leave_out_what_is_heavy(modules: list[str], absent: list[str]) -> None:
    program = f"import sys, {', '.join(modules)}; print([m for m in {absent} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
