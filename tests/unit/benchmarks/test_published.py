"""UCIT, MLLM-CL and TRACE, read from small files in the layouts that their authors publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcia import benchmarks
from lcia.benchmarks import mllm_cl, trace, ucit
from lcia.config.benchmarks import TRACE_ORDER, UCIT_ORDER, BenchmarkConfig, MllmClConfig, TraceConfig, UcitConfig
from lcia.config.run import DataConfig
from lcia.data.sources import Reading, fingerprint, samples
from lcia.metrics.scoring import fitted
from lcia.types import FileSource, InputError, Sample, Split, TaskSpec


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def taught(image: str, question: str, answer: str, **names: object) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {**names, "image": image, "conversations": turns}


def rows(task: TaskSpec, split: Split) -> list[Sample]:
    source = task.sources[split]
    assert source is not None
    return list(samples(Reading.of(source, task.instruction, None, DataConfig().max_image_pixels)))


@pytest.fixture
def ucit_root(tmp_path: Path) -> Path:
    for name in ("VizWiz/train/1.jpg", "VizWiz/val/VizWiz_val_00000007.jpg", "VizWiz/val/VizWiz_val_00000009.jpg"):
        picture(tmp_path / "datasets" / name)
    folder = tmp_path / "instructions" / "VizWiz"
    prompt = "Describe the picture.\nGenerate a brief caption."
    # Two captions of one picture are two rows with one id.
    same = {"question_id": "00000001"}
    write(folder / "train.json", [taught("VizWiz/train/1.jpg", prompt, text, **same) for text in ("A can", "A tin")])
    tests = [
        {
            "question_id": f"0000000{n}",
            "image": f"VizWiz/val/VizWiz_val_0000000{n}.jpg",
            "text": prompt,
            "answer": "A cup",
        }
        for n in (9, 7)
    ]
    write(folder / "test_3000.json", tests)
    captions = {
        "images": [{"id": n, "file_name": f"VizWiz_val_0000000{number}.jpg"} for n, number in ((1, 7), (2, 9))],
        "annotations": [{"image_id": n, "caption": f"caption {n}{letter}"} for letter in "ab" for n in (1, 2)],
    }
    write(folder / "val_coco_type_3000.json", captions)
    return tmp_path


def one(config: BenchmarkConfig, name: str) -> TaskSpec:
    return benchmarks.build(config)[name]


def test_ucit_numbers_the_rows_whose_ids_are_of_pictures(ucit_root: Path) -> None:
    found = rows(one(UcitConfig(kind="ucit", root=str(ucit_root)), "VizWiz"), "train")
    assert [(row.id, row.references, len(row.images)) for row in found] == [
        ("train-1", ("A can",), 1),
        ("train-2", ("A tin",), 1),
    ]
    assert found[0].instruction == "Generate a brief caption."


def test_ucit_judges_captions_by_all_that_a_picture_has(ucit_root: Path) -> None:
    task = one(UcitConfig(kind="ucit", root=str(ucit_root)), "VizWiz")
    found = rows(task, "test")
    assert [row.references for row in found] == [("caption 2a", "caption 2b"), ("caption 1a", "caption 1b")]
    scorer = fitted(task.strict, [row.references for row in found])
    assert scorer("caption 2a", found[0].references) > scorer("caption 1a", found[0].references)


def test_other_captions_are_other_data(ucit_root: Path) -> None:
    source = one(UcitConfig(kind="ucit", root=str(ucit_root)), "VizWiz").test
    before = fingerprint(source)
    path = ucit_root / "instructions" / "VizWiz" / "val_coco_type_3000.json"
    path.write_text(path.read_text().replace("caption 1a", "another one"))
    assert fingerprint(source) != before


def test_ucit_counts_a_part_of_the_answer_in_legacy_alone() -> None:
    strict, legacy = ucit.TASKS["ArxivQA"].scorers
    assert fitted(strict, [])("", ["B"]) == 0
    assert fitted(legacy, [])("", ["B"]) == 1
    assert fitted(legacy, [])("fish", ["goldfish"]) == 1
    assert fitted(strict, [])("fish", ["goldfish"]) == 0
    assert fitted(strict, [])("Goldfish.", ["goldfish"]) == 1


def test_mllm_cl_keeps_domains_beside_their_images(tmp_path: Path) -> None:
    picture(tmp_path / "RS" / "images" / "1.png")
    write(tmp_path / "RS" / "train.json", [taught("images/1.png", "Is it rural?\nAnswer yes or no.", "yes", id="1")])
    test = {"question_id": "5", "image": "images/1.png", "text": "Is it urban?\nAnswer yes or no.", "answer": "no"}
    write(tmp_path / "RS" / "test.json", [test])
    task = one(MllmClConfig(kind="mllm_cl", root=str(tmp_path)), "RS")
    assert [(row.id, row.references) for row in rows(task, "train") + rows(task, "test")] == [
        ("1", ("yes",)), ("5", ("no",)),
    ]  # fmt: skip


def test_mllm_cl_tests_abilities_in_a_folder_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path / "OCR" / "images" / "1.png")
    picture(tmp_path / "OCR_test" / "images" / "2.png")
    write(tmp_path / "OCR" / "train.json", [taught("images/1.png", "What is written?", "stop", id="1")])
    test = {"question_id": "5", "image": "images/2.png", "text": "What is written?", "answer": ["EXIT", "exit"],
            "answer_type": "Regular Text Recognition"}  # fmt: skip
    write(tmp_path / "OCR_test" / "test.json", [test])
    task = one(MllmClConfig(kind="mllm_cl", root=str(tmp_path), stream="ability"), "OCR")
    assert rows(task, "train")[0].references == ("stop",)
    assert rows(task, "test")[0].references == ("EXIT", "exit")


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "strict", "legacy"),
    [
        ("RS", "The answer is no.", "no", 1, 1),
        ("RS", "I cannot know", "no", 0, 1),
        ("Fin", "True.", "true", 1, 0),
        ("Sci", "Ohio, Utah", "Utah, Ohio", 1, 0),  # legacy compares blanks too
        ("Sci", "Utah", "Utah,Ohio", 0.5, 0.5),
        ("Sci", "it is the stamen", "stamen", 1, 1),
    ],
)
def test_mllm_cl_scores_domains(task: str, prediction: str, reference: str, strict: float, legacy: float) -> None:
    scores = [fitted(scorer, [])(prediction, [reference]) for scorer in mllm_cl.DOMAINS[task].scorers]
    assert scores == [strict, legacy]


def test_trace_reads_prompts_and_answers(tmp_path: Path) -> None:
    prompt = (
        "What is the monetary policy stance? Answer 'dovish', 'hawkish' or 'neutral'.\nText:\nPrices fell.\nStance:"
    )
    for file in ("train", "eval", "test"):
        write(tmp_path / "FOMC" / f"{file}.json", [{"prompt": prompt, "answer": "dovish"}] * 2)
    task = one(TraceConfig(kind="trace", root=str(tmp_path)), "FOMC")
    train, test = rows(task, "train"), rows(task, "test")
    assert [row.id for row in train] == ["train-1", "train-2"]
    assert [(m.role, m.content) for m in train[0].messages] == [("user", prompt), ("assistant", "dovish")]
    assert [m.role for m in test[0].messages] == ["user"]
    assert (test[0].references, test[0].images) == (("dovish",), ())
    assert test[0].instruction == prompt.partition("\n")[0]
    assert len(rows(task, "validation")) == 2


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "strict", "legacy"),
    [
        ("FOMC", " Hawkish", "hawkish", 1, 0),
        ("ScienceQA", "Answer: B\nBecause it is", "Answer: B\nBecause of that", 1, 1),
        ("ScienceQA", "Answer: A\nBecause it is", "Answer: A\nBecause of that", 1, 1),
        ("ScienceQA", "answer b", "Answer: B\nBecause", 1, 0),
        ("Py150", "x = <NUM_LIT:2>", "x = 2", 1, 1),
        ("Py150", "print ( <STR_LIT> )", "print (  )", 1, 1),
    ],
)
def test_trace_scores_tasks(task: str, prediction: str, reference: str, strict: float, legacy: float) -> None:
    scores = [fitted(scorer, [])(prediction, [reference]) for scorer in trace.TASKS[task].scorers]
    assert scores == [strict, legacy]


@pytest.mark.parametrize(
    ("config", "order"),
    [
        (UcitConfig(kind="ucit", root="/x"), UCIT_ORDER),
        (MllmClConfig(kind="mllm_cl", root="/x"), ("RS", "Med", "AD", "Sci", "Fin")),
        (MllmClConfig(kind="mllm_cl", root="/x", stream="ability"), ("OCR", "Math", "VP", "APP")),
        (MllmClConfig(kind="mllm_cl", root="/x", tasks=("Fin", "RS")), ("Fin", "RS")),
        (TraceConfig(kind="trace", root="/x"), TRACE_ORDER),
    ],
)
def test_the_published_order_is_the_given_one(config: BenchmarkConfig, order: tuple[str, ...]) -> None:
    built = benchmarks.build(config)
    assert built.order(None) == order
    assert built.order("reverse") == order[::-1]
    assert all(task.annotations and task.annotations.licence for task in built.tasks)


def test_a_task_of_the_other_stream_is_refused() -> None:
    with pytest.raises(InputError, match="MLLM-DCL has no task OCR; it has RS, Med"):
        benchmarks.build(MllmClConfig(kind="mllm_cl", root="/x", tasks=("OCR",)))


def test_what_is_newer_in_a_source_does_not_change_the_keys_of_older_results() -> None:
    plain = FileSource("/data/train.json", "llava", "train", "/data")
    assert set(plain.identifying) == {"path", "format", "split", "image_root", "needs_answer", "share"}
    newer = FileSource("/data/train.json", "llava", captions="/data/captions.json", numbered=True)
    assert (newer.identifying["captions"], newer.identifying["numbered"]) == ("captions.json", True)
