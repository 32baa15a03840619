"""InstrDialog (CITB, Zhang et al. 2023, arXiv 2310.14510): 19 dialogue tasks of Super-NaturalInstructions, scored by
ROUGE-L.

The files are those of github.com/allenai/natural-instructions, folder `tasks`. The collection is Apache-2.0; each file
names the licence of its instances.
"""

from __future__ import annotations

from collections.abc import Sequence

from lcia.addresses import below
from lcia.config.instrdialog import INSTRDIALOG_TASKS, InstrDialogConfig
from lcia.metrics.scoring import pair
from lcia.types import Benchmark, InstancesSource, Split, TaskSpec

ORDER_2 = (
    "task848_pubmedqa_classification",
    "task1603_smcalflow_sentence_generation",
    "task1714_convai3_sentence_generation",
    "task565_circa_answer_generation",
    "task611_mutual_multi_turn_dialogue",
    "task1590_diplomacy_text_generation",
    "task1600_smcalflow_sentence_generation",
    "task639_multi_woz_user_utterance_generation",
    "task294_storycommonsense_motiv_text_generation",
    "task1500_dstc3_classification",
    "task1384_deal_or_no_dialog_classification",
    "task1713_convai3_sentence_generation",
    "task1501_dstc3_answer_generation",
    "task576_curiosity_dialogs_answer_generation",
    "task574_air_dialogue_sentence_generation",
    "task1729_personachat_generate_next",
    "task766_craigslist_bargains_classification",
    "task573_air_dialogue_classification",
    "task1730_personachat_choose_next",
)
ORDER_3 = (
    "task1713_convai3_sentence_generation",
    "task576_curiosity_dialogs_answer_generation",
    "task1384_deal_or_no_dialog_classification",
    "task294_storycommonsense_motiv_text_generation",
    "task573_air_dialogue_classification",
    "task611_mutual_multi_turn_dialogue",
    "task1729_personachat_generate_next",
    "task1600_smcalflow_sentence_generation",
    "task574_air_dialogue_sentence_generation",
    "task1590_diplomacy_text_generation",
    "task848_pubmedqa_classification",
    "task639_multi_woz_user_utterance_generation",
    "task766_craigslist_bargains_classification",
    "task1501_dstc3_answer_generation",
    "task565_circa_answer_generation",
    "task1603_smcalflow_sentence_generation",
    "task1730_personachat_choose_next",
    "task1500_dstc3_classification",
    "task1714_convai3_sentence_generation",
)
"""The second and the third order in which CITB's authors ran the stream."""


def orders(tasks: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The published orders, cut to some of the tasks; none for tasks of which one is not of the stream."""
    if not set(tasks) <= set(INSTRDIALOG_TASKS):
        return ()
    published = {"order1": INSTRDIALOG_TASKS, "order2": ORDER_2, "order3": ORDER_3}
    return tuple((name, tuple(task for task in order if task in tasks)) for name, order in published.items())


def benchmark(config: InstrDialogConfig) -> Benchmark:
    """The chosen tasks, whose orders are `order1`, `order2` and `order3`."""
    return Benchmark("instrdialog", tuple(_task(config, name) for name in config.tasks), orders(config.tasks))


def _task(config: InstrDialogConfig, name: str) -> TaskSpec:
    strict, legacy = pair("rouge_l")
    train, validation, test = (_source(config, name, split) for split in ("train", "validation", "test"))
    return TaskSpec(name, train, test, validation, "definition", strict, legacy)


def _source(config: InstrDialogConfig, name: str, split: Split) -> InstancesSource:
    sizes = config.test_size, config.validation_size, config.train_size
    return InstancesSource(below(config.root, f"{name}.json"), split, sizes, config.seed, config.examples)
