"""MLLM-CL (Zhao et al. 2025): two streams, five domains (DCL) and four abilities (ACL), each in its published order.

Layout, as the authors' README has it: `<domain>/train.json`, `<domain>/test.json` with `images/` beside them;
`<ability>/train.json` and `<ability>_test/test.json`, each with its own `images/`. The hub's copy has the domains below
`domain/`: name that folder as the root. MCITlib names the test folder of VP CV-Benchv2.

The authors count an answer that holds the reference anywhere, and for Fin equality; one that holds "Unanswerable" is
wrong in their scripts, whatever the reference. Two of their scores cannot be had offline: for Math a language model
extracts the answer (MathVista), and APP is submitted to MMT-Bench's server, whose choice is a letter. Here Math counts
what is mentioned, APP the letter chosen. How prompts end could not be looked up: that their last line is the
instruction, as in CoIN, is an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lcia.addresses import below
from lcia.benchmarks.published import Layout, Published, chosen, specs
from lcia.config.benchmarks import MllmClConfig
from lcia.metrics.published import legacy_listed, listed
from lcia.metrics.scoring import Pair, exact_without_dot, legacy_exact, pair
from lcia.types import Benchmark, Origin

ORIGIN = Origin("https://huggingface.co/datasets/MLLM-CL/MLLM-CL", "Apache-2.0")
_IMAGES = Origin(ORIGIN.source, "those of the data sets that they are from")


def _domain(name: str, scorers: Pair) -> Published:
    return Published(scorers, f"{name}/train.json", f"{name}/test.json", _IMAGES, train_images=name, test_images=name)


def _ability(name: str, scorers: Pair) -> Published:
    test = f"{name}_test"
    return Published(scorers, f"{name}/train.json", f"{test}/test.json", _IMAGES, train_images=name, test_images=test)


DOMAINS: Mapping[str, Published] = MappingProxyType(
    {
        "RS": _domain("RS", pair("mentions")),
        "Med": _domain("Med", pair("mentions")),
        "AD": _domain("AD", pair("mentions")),
        "Sci": _domain("Sci", (listed, legacy_listed)),
        "Fin": _domain("Fin", (exact_without_dot, legacy_exact)),
    }
)
ABILITIES: Mapping[str, Published] = MappingProxyType(
    {
        "OCR": _ability("OCR", pair("mentions")),
        "Math": _ability("Math", pair("mentions")),
        "VP": _ability("VP", pair("mentions")),
        "APP": _ability("APP", pair("multiple_choice")),
    }
)


def benchmark(config: MllmClConfig) -> Benchmark:
    """The chosen tasks of one of the two streams in the authors' files.

    Raises:
        InputError: a task that the stream does not have.
    """
    name, facts = ("MLLM-DCL", DOMAINS) if config.stream == "domain" else ("MLLM-ACL", ABILITIES)
    layout = Layout(below(config.root, ""), below(config.root, ""), ORIGIN)
    found = chosen(name, facts, tuple(facts) if config.tasks is None else config.tasks)
    return Benchmark(name.lower(), specs(found, layout, config.max_samples))
