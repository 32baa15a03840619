"""The commands that need no Ray, called as a user calls them: what they print and what they leave on the disk."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from PIL import Image

from lcia import benchmarks
from lcia.config.benchmarks import CustomConfig, CustomTask, MiniCoinConfig
from lcia.config.load import load
from lcia.config.run import DataConfig, RunConfig, TrainingConfig
from lcia.data.sources import Reading, samples
from lcia.types import Sample, TaskSpec
from pipelines import cli

PIXELS = DataConfig().max_image_pixels

TASKS = ("VQAv2", "Grounding", "OCR-VQA")
FOLDERS = {"OCR-VQA": "OCRVQA"}
"""Where CoIN does not call a task's folder by its name."""
SIZES = {"train": 6, "validation": 2, "test": 3}
ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: object) -> int:
    """`lcia` in this process, as main() would run it."""
    return cli.guarded(lambda: cli.app([str(a) for a in arguments], standalone_mode=False))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    sizes = {f"{split}_size": size for split, size in SIZES.items()}
    path.write_text(yaml.safe_dump({"benchmark": {"kind": "minicoin", "tasks": list(TASKS), **sizes}}))
    return path


@pytest.fixture
def made(config: Path, tmp_path: Path) -> Path:
    """What `lcia data make` wrote."""
    folder = tmp_path / "made"
    assert call("data", "make", config, folder) == 0
    return folder


def rows(task: TaskSpec, split: str) -> list[Sample]:
    return list(samples(Reading.of(getattr(task, split), task.instruction, None, PIXELS)))


# data make and data validate --------------------------------------------------------------------------------------


def test_make_writes_every_row_and_an_image_for_each(made: Path) -> None:
    for task in TASKS:
        files = {"train": "train.json", "test": "val.json" if task == "VQAv2" else "test.json"}
        for split, file in files.items():
            records = json.loads((made / FOLDERS.get(task, task) / file).read_text())
            assert len(records) == SIZES[split]
            for record in records:
                with Image.open(made / record["image"]) as image:
                    assert image.format == "PNG"
                    assert image.size == (32, 32)


def test_make_overwrites_nothing(made: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert call("data", "make", config, made, "benchmark.seed=9") == 2
    assert "is not empty" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_make_is_for_drawn_data(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "make", config, tmp_path / "new", "benchmark.kind=coin", "benchmark.root=x") == 2
    assert "only minicoin can be made" in capsys.readouterr().err


def test_validate_counts_what_make_wrote(config: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    coin = ["benchmark.kind=coin", f"benchmark.root={made}", "benchmark.validation=validation.json"]
    assert call("data", "validate", config, *coin, f"benchmark.tasks=[{', '.join(TASKS)}]", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    shares = {row["data"]: row["answers_in_training"] for row in found}
    assert shares["VQAv2/train"] == {}
    assert shares["Grounding/test"] == dict.fromkeys(TASKS, 0.0)
    counted = {row["data"]: (row["rows"], row["bad"]) for row in found}
    assert counted == {f"{task}/{split}": (size, 0) for task in TASKS for split, size in SIZES.items()}


def test_validate_names_the_defects_and_fails(config: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "Grounding" / "images" / "train" / "0.png").write_bytes(b"")
    capsys.readouterr()
    coin = ["benchmark.kind=coin", f"benchmark.root={made}", "benchmark.tasks=[Grounding]"]
    assert call("data", "validate", config, *coin) == 2
    shown = capsys.readouterr()
    assert re.search(r"Grounding/train\W+6\W+1\W+empty_image: 1", shown.out)
    assert re.search(r"answers of\W+Grounding\W+Grounding\W+0\.0", shown.out)
    assert "empty_image" in shown.err


def test_check_finds_what_make_wrote_and_names_what_is_missing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = f"tasks=[{', '.join(TASKS)}]"
    capsys.readouterr()
    assert call("data", "check", "coin", made, tasks) == 0
    assert call("data", "check", "coin", made, tasks, "--json") == 0
    capsys.readouterr()
    (made / "VQAv2" / "val.json").unlink()
    assert call("data", "check", "coin", made, tasks, "--json") == 1
    [missing] = [item for item in json.loads(capsys.readouterr().out) if item["problem"]]
    assert (missing["task"], missing["what"], missing["licence"]) == ("VQAv2", "test", "CC BY 4.0")
    assert "Zacks-Chen/CoIN" in missing["source"]
    assert call("data", "check", "coin", made, tasks) == 1
    shown = capsys.readouterr()
    assert "missing" in shown.out
    assert "1 of 11 are missing or incomplete" in shown.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("coco", "x"), "there is no published benchmark 'coco'"),
        (("ucit", "x", "task=[VizWiz]"), "did you mean 'tasks'"),
    ],
)
def test_check_refuses_what_it_does_not_know(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "check", *arguments) == 2
    assert told in capsys.readouterr().err


def test_custom_tasks_read_what_make_wrote_as_it_was_drawn(made: Path) -> None:
    tasks = (
        CustomTask(name="VQAv2", train="VQAv2/train.json", test="VQAv2/val.json"),
        CustomTask(name="Grounding", train="Grounding/train.json", test="Grounding/test.json",
                   instruction="before_colon", scorer="iou"),
    )  # fmt: skip
    mine = benchmarks.build(CustomConfig(kind="custom", root=str(made), tasks=tasks))
    drawn = benchmarks.build(MiniCoinConfig(tasks=TASKS, train_size=6, validation_size=2, test_size=3))
    for task in mine.tasks:
        for split in ("train", "test"):
            assert rows(task, split) == rows(drawn[task.name], split)


# data show --------------------------------------------------------------------------------------------------------


def test_show_prints_prompt_trained_answer_and_group_and_saves_the_image(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "show", config, "--rows", 2, "--images", tmp_path / "seen") == 0
    shown = capsys.readouterr().out
    drawn = benchmarks.build(load(RunConfig, config).benchmark)
    for task, group in zip(TASKS, ("g0", "g1", "g0"), strict=True):
        for number, sample in enumerate(rows(drawn[task], "train")[:2]):
            part = shown.split(f"id {sample.id}\n")[1].split("\n==")[0]
            question, answer = sample.messages[0].content.removeprefix("<image>\n"), sample.messages[-1].content
            assert f"instruction (grouping): {sample.instruction!r}" in part
            assert f"group: {group} " in part
            prompt, trained = f"<s>USER: <16 image tokens>\n{question}\n", f" {answer}</s>"
            assert f"the model reads: {prompt!r}"[:-1] in part
            assert re.search(rf"with loss \d+: {re.escape(repr(trained))}", part)
            with Image.open(tmp_path / "seen" / f"{task}-{number}-0.png") as image:
                assert image.format == "PNG"
                assert image.size == (32, 32)


def test_show_may_be_about_one_task_and_says_nothing_of_groups_without_grouping(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("data", "show", config, "--task", "Grounding", "grouping.enabled=false") == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("==")] == ["Grounding"]
    assert "group:" not in shown


def test_show_of_a_task_that_is_not_there_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "show", config, "--task", "Cooking") == 2
    assert "no task 'Cooking'" in capsys.readouterr().err


# plan and group ---------------------------------------------------------------------------------------------------

PARAPHRASED = ("benchmark.instructions=10type", "benchmark.train_size=60", "benchmark.test_size=10")


@pytest.mark.parametrize("verb", ["plan", "group"])
def test_a_threshold_that_separates_paraphrases_is_warned_of_before_anything_is_trained(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    given = (config, *PARAPHRASED, "--set", f"storage={tmp_path / 'runs'}")
    assert call(verb, *given, "grouping.threshold=origin", "grouping.fallback=newest") == 0
    told = capsys.readouterr().err
    assert "warning: The threshold 0.90 separates 3 tasks from their own paraphrases" in told
    assert re.search(r"warning: \d+ of 10 test samples of VQAv2 are answered by g2 \(trained on OCR-VQA\)", told)
    assert call(verb, *given) == 0
    assert "warning" not in capsys.readouterr().err


def test_group_names_threshold_and_gap_of_every_decision(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # pytest-xdist sets 80, which would wrap the cells
    given = (config, *PARAPHRASED, "--set", f"storage={tmp_path / 'runs'}")
    assert call("group", *given, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(p["task"], p["group"]) for p in found["groups"]] == list(zip(TASKS, (0, 1, 0), strict=True))
    for placement in found["groups"]:
        low, high = placement["gap"]
        assert placement["threshold"] == pytest.approx((low + high) / 2)
    assert {route["threshold"] for route in found["routes"]} == {found["groups"][-1]["threshold"]}
    assert found["warnings"] == []
    assert call("group", *given) == 0
    assert "(gap 0.000 to " in capsys.readouterr().out


# init, doctor, schema ---------------------------------------------------------------------------------------------


def test_init_writes_the_defaults_with_a_short_stream(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "first.yaml"
    assert call("init", path) == 0
    short = RunConfig(name="first", benchmark=MiniCoinConfig(tasks=TASKS), training=TrainingConfig(max_steps=80))
    assert load(RunConfig, path) == short


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: mine\n")
    assert call("init", path) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert path.read_text() == "name: mine\n"


def _kinds(section: str) -> set[str]:
    """Every `kind` that a section of a run may have."""
    schema = RunConfig.model_json_schema()
    choice = schema["properties"].get(section) or schema["$defs"]["GroupingConfig"]["properties"][section]
    return set(choice["discriminator"]["mapping"])


@pytest.mark.parametrize("section", ["benchmark", "assistant", "strategy", "embedder"])
def test_the_comments_of_init_name_every_kind(tmp_path: Path, section: str) -> None:
    call("init", tmp_path / "run.yaml")
    text = (tmp_path / "run.yaml").read_text()
    part = text[text.index(f"{section}:") :]
    # A long list goes on in the next line.
    first, *rest = part[part.index("kind:") :].splitlines()
    comment = first.partition("#")[2] + "".join(line.partition("#")[2] for line in rest[:1] if "# |" in line)
    assert {words.split()[0] for words in comment.split("|")} == _kinds(section)


def test_doctor_knows_the_versions_and_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcia.report.environment.PACKAGES", ("torch", "no-such-package"))
    assert call("doctor", "--json") == 0
    found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["torch"] == {"check": "torch", "found": metadata.version("torch"), "hint": ""}
    assert found["no-such-package"]["hint"] == "make env installs it"
    assert int(found["CPUs"]["found"]) >= 1


def _schema(what: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert call("schema", what) == 0
    schema: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.mark.parametrize(("what", "folder"), [("run", "."), ("launch", "launch"), ("study", "studies")])
def test_the_schema_admits_what_ships_and_no_other_key(
    what: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    validator = jsonschema.Draft202012Validator(_schema(what, capsys))
    for path in (ROOT / "configs" / folder).glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        assert list(validator.iter_errors(values)) == []
        assert list(validator.iter_errors({**values, "no_such_key": 1})) != []


def test_there_is_no_schema_of_anything_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema", "recipe") == 2
    assert "run, launch, study" in capsys.readouterr().err


# Stopping ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_any_command_says_how_to_go_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.terminal.commands.run", interrupted)
    assert call("run", config) == 130
    assert "To continue, run the same command again." in capsys.readouterr().err
