"""TRACE (Wang et al. 2023): eight text tasks of 5,000 training rows each, in the order of the authors' scripts.

Layout: `<task>/train.json`, `eval.json` and `test.json`, arrays of {prompt, answer}; no images. An instruction is the
prompt's first line, so grouping compares that.

Scores as the authors' scripts have them, and strict ones beside: accuracy for C-STANCE, FOMC, ScienceQA (the letter)
and NumGLUE, ROUGE-L for MeetingBank, similarity of characters for Py150. For 20Minuten the paper reports SARI, which
compares with the question's text; here it is ROUGE-L, which the authors' script computes too. Many rows of MeetingBank,
ScienceQA and 20Minuten need more than the default `evaluation.max_new_tokens` (the authors allow 512).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lcia.addresses import below
from lcia.benchmarks.published import Layout, Published, chosen, specs
from lcia.config.benchmarks import TraceConfig
from lcia.metrics.published import answer_letter, code_similarity, legacy_answer_letter, legacy_equal
from lcia.metrics.scoring import Pair, exact, pair
from lcia.types import Benchmark, Origin

ORIGIN = Origin(
    "https://github.com/BeyonderXX/TRACE (its README links the files)",
    "MIT for the repository; the tasks keep the licences of the data sets that they are from",
)


def _task(name: str, scorers: Pair) -> Published:
    return Published(
        scorers, f"{name}/train.json", f"{name}/test.json", instruction="first_line", validation=f"{name}/eval.json"
    )


_EQUAL: Pair = (exact, legacy_equal)
TASKS: Mapping[str, Published] = MappingProxyType(
    {
        "C-STANCE": _task("C-STANCE", _EQUAL),
        "FOMC": _task("FOMC", _EQUAL),
        "MeetingBank": _task("MeetingBank", pair("rouge_l")),
        "Py150": _task("Py150", (code_similarity, code_similarity)),
        "ScienceQA": _task("ScienceQA", (answer_letter, legacy_answer_letter)),
        "NumGLUE-cm": _task("NumGLUE-cm", _EQUAL),
        "NumGLUE-ds": _task("NumGLUE-ds", _EQUAL),
        "20Minuten": _task("20Minuten", pair("rouge_l")),
    }
)


def benchmark(config: TraceConfig) -> Benchmark:
    """The chosen tasks in the authors' files.

    Raises:
        InputError: a task that TRACE does not have.
    """
    layout = Layout(below(config.root, ""), below(config.root, ""), ORIGIN, "prompt")
    return Benchmark("trace", specs(chosen("TRACE", TASKS, config.tasks), layout, config.max_samples))
