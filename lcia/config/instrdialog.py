"""The InstrDialog stream of CITB, and any other stream of task files of Super-NaturalInstructions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lcia.config.names import TaskNames
from lcia.config.sections import Count, Section, Seed

INSTRDIALOG_TASKS = (
    "task848_pubmedqa_classification",
    "task611_mutual_multi_turn_dialogue",
    "task565_circa_answer_generation",
    "task1714_convai3_sentence_generation",
    "task574_air_dialogue_sentence_generation",
    "task1590_diplomacy_text_generation",
    "task1730_personachat_choose_next",
    "task294_storycommonsense_motiv_text_generation",
    "task576_curiosity_dialogs_answer_generation",
    "task1600_smcalflow_sentence_generation",
    "task1500_dstc3_classification",
    "task639_multi_woz_user_utterance_generation",
    "task1729_personachat_generate_next",
    "task1501_dstc3_answer_generation",
    "task1713_convai3_sentence_generation",
    "task766_craigslist_bargains_classification",
    "task1603_smcalflow_sentence_generation",
    "task1384_deal_or_no_dialog_classification",
    "task573_air_dialogue_classification",
)
"""The 19 tasks of the stream in its first order."""


class InstrDialogConfig(Section):
    """Tasks in files of Super-NaturalInstructions; as they stand, the InstrDialog stream of CITB.

    A file's instances are dealt out to test, validation and training rows, in this order: each takes what it asks for,
    or what is left.
    """

    kind: Literal["instrdialog"]
    """Task files of Super-NaturalInstructions."""
    root: str
    """Folder or URL of the task files, `NAME.json` each."""
    tasks: TaskNames = INSTRDIALOG_TASKS
    """Names of task files, without `.json`, in the order of the stream. The published orders are cut to these."""
    examples: Annotated[int, Field(ge=0)] = 2
    """How many of a task's positive examples stand in every question."""
    train_size: Count = 500
    """Most training rows of each task."""
    validation_size: Count = 50
    """Validation rows of each task."""
    test_size: Count = 100
    """Test rows of each task."""
    seed: Seed | None = 0
    """What the rows are drawn by; null: they are dealt out in the file's own order, as CITB's scripts do."""
    # Not written while tasks are whole, as in the other benchmarks.
    stretches: Count = Field(default=1, exclude_if=lambda value: value == 1)
    """Into how many short tasks each task is cut, which alternate in the stream: `NAME.1`, `NAME.2` ..."""
