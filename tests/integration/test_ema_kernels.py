"""The Triton kernels give what plain torch gives: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lcia.ema.triton_launch import Chunks, wanted

pytest.importorskip("triton")

Results = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    """Made in a process of its own, because the interpreter must be chosen before imports. Results have names like
    "rule type habit of the loop"."""
    file = tmp_path_factory.mktemp("kernels") / "results.json"
    import torch

    interpreter = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.programs.ema_kernels", str(file)]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **interpreter}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture
def results(report: dict[str, Any]) -> Results:
    found: Results = report["results"]
    return found


def _of(results: Results, *words: str) -> Results:
    chosen = {name: figures for name, figures in results.items() if all(word in name.split() for word in words)}
    assert chosen
    return chosen


def test_in_double_precision_they_agree_to_a_trillionth(results: Results) -> None:
    for name, figures in _of(results, "fp64").items():
        assert max(figures["star"], figures["theta"], figures.get("beta", 0)) < 1e-12, name


def test_in_single_precision_beta_agrees_to_a_hundred_thousandth_and_theta_star_to_a_ten_thousandth(
    results: Results,
) -> None:
    for name, figures in _of(results, "fp32").items():
        if "bfloat16" not in name:
            assert figures.get("beta", 0) < 1e-5, name
            assert max(figures["star"], figures["theta"]) < 1e-4, name


def test_half_precision_weights_and_weights_of_several_types_have_an_fp32_average(results: Results) -> None:
    for name, figures in {**_of(results, "paper", "bf16"), **_of(results, "mixed")}.items():
        assert max(figures["star"], figures["theta"], figures.get("beta", 0)) < 1e-5, name


def test_a_pulled_half_precision_gradient_differs_by_its_last_bit_at_most(results: Results) -> None:
    """The interpreter cuts where torch rounds."""
    assert _of(results, "curvature_with_pull", "bf16")["curvature_with_pull bf16 dropped"]["theta"] <= 2**-7


def test_gradients_held_in_bf16_change_beta_by_their_last_bits_only(results: Results) -> None:
    assert 0 < results["paper fp32 bfloat16"]["beta"] < 2e-2


def test_at_least_half_of_the_compared_betas_are_dynamic(results: Results) -> None:
    for rule in ("paper", "official", "proximal"):
        assert results[f"{rule} fp32 dropped"]["dynamic"] >= 0.5, rule


def test_a_restart_in_the_middle_changes_no_bit(results: Results) -> None:
    assert {name for name, figures in results.items() if figures["resumed"] != 0} == set()


def test_every_habit_of_a_loop_was_compared(results: Results) -> None:
    for habit in ("dropped", "missing", "scaled", "copy", "bfloat16"):
        _of(results, habit)
    assert "paper fp32 in place" in results


def test_a_gradient_that_is_not_finite_is_told_by_the_kernels_as_by_torch(report: dict[str, Any]) -> None:
    expected = "gradients of 1 parameters were not finite (layers.1.3)"
    assert {name for name, said in report["complaints"].items() if said != [expected] * 2} == set()


def _ptx(name: str, arguments: dict[str, str], **fixed: object) -> str:
    """What Triton makes of a kernel for an H100 or H200; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lcia.ema import triton_kernels

    kernel = getattr(triton_kernels, name)
    constants = {(kernel.arg_names.index(key),): value for key, value in fixed.items()}
    signature = {**arguments, **dict.fromkeys(fixed, "constexpr")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    text: str = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    return text


TABLES = {"table": "*i64", "chunks": "*i64"}


@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("narrow", ["float32", "bfloat16", "float16"])
def test_the_kernels_compile_for_a_gpu(narrow: str, wide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton.language as tl

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    low, high = getattr(tl, narrow), getattr(tl, wide)
    types, form = {"THETA": low, "WIDE": high}, {"ALIGNED": False, "SIZE": 1024}
    weighed = {"made": "*fp64", "partial": "*fp64"}
    for products in (True, False):
        measured = {**types, "GRADIENT": low, "LAST": low, "PRODUCTS": products, "WEIGHTS": True, **form}
        assert ".entry measure_kernel" in _ptx("measure_kernel", TABLES | weighed, **measured)
    assert ".entry move_kernel" in _ptx("move_kernel", TABLES | {"weight": "*fp64"}, **types, **form)
    pulled = {"made": "*fp64", "scale": "*fp32", "pull": "*fp64"}
    for squares in (True, False):
        text = _ptx("consolidate_kernel", TABLES | pulled, **types, GRADIENT=low, SQUARES=squares, **form)
        assert ".entry consolidate_kernel" in text
    assert ".entry gather_kernel" in _ptx("gather_kernel", {"partial": "*fp64", "firsts": "*i64", "sums": "*fp64"})


@pytest.mark.parametrize(("aligned", "joined"), [(True, True), (False, False)])
def test_where_sizes_and_addresses_allow_it_four_entries_are_loaded_at_once(aligned: bool, joined: bool) -> None:
    import triton.language as tl

    types = {"THETA": tl.float32, "WIDE": tl.float32, "ALIGNED": aligned, "SIZE": 1024}
    assert ("ld.global.v4" in _ptx("move_kernel", TABLES | {"weight": "*fp64"}, **types)) is joined


def test_every_entry_is_in_one_chunk() -> None:
    import torch

    chunks = Chunks.of([5, 0, 300, 1], torch.device("cpu"), size=128)
    covered = [(row[0], at) for row in chunks.rows.tolist() for at in range(row[1], row[2])]
    assert covered == [(tensor, at) for tensor, size in enumerate([5, 0, 300, 1]) for at in range(size)]
    assert chunks.firsts.tolist() == [0, 1, 1, 4, 5]


def test_the_kernels_are_for_gpus_unless_somebody_asks() -> None:
    import torch

    assert [wanted("auto", torch.device(device)) for device in ("cpu", "cuda")] == [False, True]
    assert [wanted("torch", torch.device("cuda")), wanted("triton", torch.device("cpu"))] == [False, True]


def test_without_triton_a_gpu_uses_torch_and_an_explicit_wish_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    import torch

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not wanted("auto", torch.device("cuda"))
    with pytest.raises(ValueError, match="needs the package triton"):
        wanted("triton", torch.device("cpu"))
