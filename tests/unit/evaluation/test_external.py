"""A command on an adapter: what it is given, what is read of what it leaves, and how it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lcia.config.assistants import LoraConfig, TinyConfig
from lcia.config.general import ExternalConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig, TrainingConfig
from lcia.config.strategies import SequentialConfig
from lcia.evaluation.external import CommandFailedError, chosen_of, judge, read_figures
from lcia.stage import ExternalStage, TrainStage
from lcia.store.folders import Store
from lcia.types import InputError

JUDGE = str(Path(__file__).parents[2] / "programs" / "judge.py")
TRAINED = TrainStage(
    tasks=("GQA",), shards=("s",), parent=None, first=True, base="b", assistant=TinyConfig(), lora=LoraConfig(),
    training=TrainingConfig(), strategy=SequentialConfig(), seed=0,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Holds one adapter, of rank 4."""
    found = Store(str(tmp_path / "store"))
    with found.publish(TRAINED.key, TRAINED.record) as folder:
        (folder / "adapter_config.json").write_text('{"r": 4}')
        (folder / "adapter_model.safetensors").write_bytes(bytes(10))
        (folder / "steps.jsonl").write_text("")
        (folder / "result.json").write_text('{"seconds": 1, "steps": 1}')
    return found


def stage(*words: str, adapter: str | None = TRAINED.key) -> ExternalStage:
    return ExternalStage(task="GQA", adapter=adapter, command=words, base="b", assistant=TinyConfig())


def python(code: str, *words: str) -> ExternalStage:
    return stage(sys.executable, "-c", code, *words)


def test_the_numbers_of_the_json_are_kept_by_their_paths(store: Store, tmp_path: Path) -> None:
    asked = stage(sys.executable, JUDGE, "{output}", str(tmp_path / "log"), "{adapter}")
    judge(asked, store)
    assert read_figures(store.fetch(asked.key)) == {"results/pope/accuracy,none": 0.5, "bytes": 10.0}


def test_what_is_stored_is_not_asked_again(store: Store, tmp_path: Path) -> None:
    asked = stage(sys.executable, JUDGE, "{output}", str(tmp_path / "log"), "{adapter}")
    judge(asked, store)
    judge(asked, store)
    assert (tmp_path / "log").read_text() == "adapter\n"


def test_the_command_gets_a_copy_of_the_adapter_and_the_place_of_the_base(store: Store) -> None:
    code = (
        "import json, pathlib, sys; output, adapter, model, revision = sys.argv[1:];"
        "files = sorted(p.name for p in pathlib.Path(adapter).iterdir());"
        "pathlib.Path(adapter, 'adapter_config.json').unlink();"
        "known = pathlib.Path(model, 'config.json').exists();"
        "pathlib.Path(output).write_text(json.dumps({'files': len(files), 'known': int(known), revision: 1}))"
    )
    asked = python(code, "{output}", "{adapter}", "{model}", "{revision}")
    judge(asked, store)
    assert read_figures(store.fetch(asked.key)) == {"files": 2.0, "known": 1.0, "main": 1.0}
    assert (store.fetch(TRAINED.key) / "adapter_config.json").exists()


def test_no_shell_reads_the_words(store: Store) -> None:
    code = "import json, sys; open(sys.argv[1], 'w').write(json.dumps({sys.argv[2]: 1}))"
    asked = python(code, "{output}", "$HOME; exit 3 {adapter_x}")
    judge(asked, store)
    assert read_figures(store.fetch(asked.key)) == {"$HOME; exit 3 {adapter_x}": 1.0}


def test_of_a_folder_the_one_file_of_results_is_read(store: Store) -> None:
    code = (
        "import pathlib, sys; folder = pathlib.Path(sys.argv[1], 'model'); folder.mkdir(parents=True);"
        "(folder / 'samples.json').write_text('[]');"
        '(folder / \'20261127_results.json\').write_text(\'{"acc": 0.5, "ok": true, "bad": NaN}\')'
    )
    asked = python(code, "{output}")
    judge(asked, store)
    assert read_figures(store.fetch(asked.key)) == {"acc": 0.5}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('step 1'); sys.exit('no such model')", r"(?s)ended with code 1; the last .*no such model"),
        ("import sys; sys.exit(3)", r"ended with code 3; the last that it said: \(nothing\)"),
        ("raise SystemExit('https:' + '//me:secret@host failed')", r"https://me:\*+@host failed"),
        ("pass", "left nothing at {output}"),
        ("import sys; open(sys.argv[1], 'w').write('yes')", "is not JSON"),
        ("import sys; open(sys.argv[1], 'w').write('{\"a\": \"b\"}')", "holds no number"),
        ("import os, sys; os.mkdir(sys.argv[1])", r"left 0 files \*results.json"),
    ],
)
def test_a_command_that_fails_says_what_it_said_last_and_leaves_nothing(store: Store, code: str, told: str) -> None:
    asked = python(code, "{output}")
    with pytest.raises(CommandFailedError, match=told):
        judge(asked, store)
    assert not store.has(asked.key)


def test_a_program_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(CommandFailedError, match="no-such-program cannot be started: No such file"):
        judge(stage("no-such-program", "{output}"), store)


def test_chosen_figures_have_to_be_there() -> None:
    assert chosen_of({"a/b": 1.0, "c": 2.0}, ()) == {"a/b": 1.0, "c": 2.0}
    assert chosen_of({"a/b": 1.0, "c": 2.0}, ("c",)) == {"c": 2.0}
    with pytest.raises(InputError, match="names d, which the command did not write; it wrote a/b, c"):
        chosen_of({"a/b": 1.0, "c": 2.0}, ("d",))


@pytest.mark.parametrize(
    ("external", "told"),
    [
        ({"command": ["judge", "{adapter}"]}, r"no word holds \{output\}"),
        ({"command": ["judge", "{output}"]}, r"no word holds \{adapter\}"),
        ({"command": []}, "command"),
        ({"command": ["judge", "{output}", "{adapter}"], "untuned": ["judge"]}, r"no word holds \{output\}"),
        ({"command": ["judge", "{output}", "{adapter}"], "untuned": ["{output}{adapter}"]}, "before any training"),
        ({"command": ["judge", "{output}", "{adapter}", "https://me:secret@host"]}, "holds a password"),
    ],
)
def test_a_command_that_cannot_work_is_refused(external: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse(RunConfig, {"evaluation": {"external": external}}, "run")


def test_another_command_is_another_result_and_no_training_changes() -> None:
    one, two = stage("a", "{output}"), stage("b", "{output}")
    assert one.key != two.key
    assert one.adapters == (TRAINED.key,)
    assert stage("a", "{output}", adapter=None).adapters == ()
    assert ExternalStage.model_validate(json.loads(json.dumps(one.record))).key == one.key
    assert ExternalConfig(command=("a", "{output}", "{adapter}")).every == "stage"
