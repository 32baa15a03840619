"""The page is read with the standard library's HTML parser, which knows nothing of the template."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lcia.config.grouping import GroupingConfig
from lcia.grouping.codebook import Placement, Route
from lcia.metrics import stats
from lcia.metrics.adaptation import Round
from lcia.metrics.matrix import AccuracyMatrix, metrics
from lcia.report import page, wording
from lcia.report.figures.run import StageSteps
from lcia.report.learnt import TaskAnswers
from lcia.report.page import Decision, Prediction, ReportInput, RunReport
from lcia.report.study_tables import Setting, StudyTables
from lcia.studies.compare import GeneralSpread, TaskSpread

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \"'&"
NAN = np.nan
STAGES = {"asked": 12, "distinct": 9, "trained": 4}


class Page(HTMLParser):
    """Tags with their attributes, and all text outside <style>."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._style = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data):
        if not self._style and data.strip():
            self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def png(size=(40, 30), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


def run(name="lcia", text="red", scores=((80.0, NAN), (60.0, 70.0)), **config):
    return RunReport(
        name,
        AccuracyMatrix((text, "second"), np.array(scores)),
        {"name": name, "strategy": {"kind": "curvature", **config}},
        (
            StageSteps(
                text, ({"step": 1.0, "beta_q05": 0.1, "beta_q50": 0.2, "beta_q95": 0.3, "fallback": 0.0},), (0, 1)
            ),
        ),
        (
            Decision(text, "train", "g0", "new group"),
            Decision("second", "train", "g1", "new group", {"g0": 0.0917}, 0.9, 5),
        ),
        (Prediction("second", "7", f"<image>\n{text}?", (text, text), text, 1.0, "g1", png()),),
        {"train " + text: 75.0, "evaluate": 2.25},
    )


def page_of(*runs, **fields):
    return Page(page.render(ReportInput(fields.pop("title", "A run"), runs, **fields)))


@pytest.fixture(scope="module")
def hostile():
    counts, environment = ({"task": ATTACK, "rows": 3},), {ATTACK: ATTACK}
    attacked = run(name=ATTACK, text=ATTACK, note=ATTACK)
    return page_of(attacked, title=ATTACK, counts=counts, environment=environment, subtitle=ATTACK)


def test_whatever_data_and_models_say_stays_text(hostile):
    assert hostile.all("script") == []
    assert not [attributes for _, attributes in hostile.tags if any(name.startswith("on") for name in attributes)]
    assert hostile.text.count(ATTACK) >= 12


def test_no_address_leaves_the_page(hostile):
    links = {value for _, attributes in hostile.tags for name, value in attributes.items() if name in {"href", "src"}}
    assert {link[:5] for link in links if not link.startswith("#")} == {"data:"}
    assert hostile.all("link") == []
    policy = next(
        meta["content"] for meta in hostile.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_ids_are_distinct_even_with_equal_run_names():
    ids = [attributes["id"] for _, attributes in page_of(run(), run()).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_links_inside_the_page_find_their_target():
    page = page_of(run("a b"), run("c"), counts=({"rows": 1},))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {attributes["href"][1:] for attributes in page.all("a")} <= ids


def test_headline_metrics_and_their_best_values_are_shown():
    page = page_of(run("worse"), run("better", scores=((80.0, NAN), (79.0, 71.0))))
    assert "worse average accuracy 65.0 forgetting 20.0 new-task accuracy" in page.text
    assert "75.0 (best)" in page.text
    assert "1.0 (best)" in page.text


def test_a_single_run_is_not_called_the_best():
    assert "(best)" not in page_of(run()).text


def test_an_undefined_metric_is_a_dash_with_its_reason():
    assert "fwt needs the untuned model's scores" in page_of(run()).text


def test_decisions_come_with_similarities_and_threshold():
    assert "second train new group g1 5 g0 0.092 0.90" in page_of(run()).text
    assert "no group yet" in page_of(run()).text


def test_a_threshold_from_the_data_stands_with_its_gap():
    chosen = Decision("second", "train", "g1", "new group", {"g0": 0.09}, 0.37, 5, gap=(0.09, 0.65))
    text = page_of(replace(run(), decisions=(chosen,))).text
    assert "g0 0.090 0.37 (0.09 to 0.65)" in text
    assert "was chosen from the data" in text
    assert "was chosen from the data" not in page_of(run()).text


def test_a_test_decision_without_similarities_does_not_speak_of_groups_to_come():
    rest = Decision("second", "test", "g1", "routed", samples=40, instruction="12 more")
    page = page_of(replace(run(), decisions=(rest,)))
    assert "second 12 more test routed g1 40" in page.text
    assert "no group yet" not in page.text


def test_who_answers_whom_is_shown_row_by_row():
    served = {"red": {"red": {"g0": 9}}, "second": {"red": {"g0": 9}, "second": {"g0": 2, "g1": 5}}}
    page = page_of(replace(run(), served=served))
    assert "Who answers whom" in page.text
    assert "after red second red g0: 9 second g0: 9 g0: 2, g1: 5" in page.text
    assert "Who answers whom" not in page_of(run()).text


def test_answers_of_two_runs_to_one_question_stand_side_by_side():
    page = page_of(run("one"), run("two"))
    assert len(page.all("img")) == 1
    assert re.search(r"reference red one ✓ red 1, g1 two ✓ red 1, g1", page.text)


def test_questions_are_shown_without_the_mark_of_their_image():
    page = page_of(run(text="which colour"))
    assert "which colour?" in page.text
    assert "<image>" not in page.text


def test_only_what_differs_between_configurations_is_compared():
    a = {"seed": 0, "strategy": {"kind": "sequential"}, "lora": {"r": 8}}
    b = {"seed": 0, "strategy": {"kind": "curvature", "lambda": 0.3}, "lora": {"r": 8}}
    assert wording.differences([a, b]) == {"strategy.kind": ["sequential", "curvature"], "strategy.lambda": ["", 0.3]}


def test_configuration_environment_counts_and_times_are_shown():
    page = page_of(run(), counts=({"task": "a", "rows": 800}, {"task": "b", "bad": 2}), environment={"torch": "2.13.0"})
    for words in (
        "kind: curvature",
        "torch 2.13.0",
        "task rows bad a 800 b 2",
        "train red 1 min 15 s",
        "all stages 1 min 17 s",
    ):
        assert words in page.text


def test_how_a_stage_came_through_interruptions_stands_with_its_time():
    page = page_of(replace(run(), notes={"train red": "continued after step 4", "evaluate": ""}))
    assert "train red continued after step 4 1 min 15 s evaluate 2.2 s" in page.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.25, "2.2 s"), (59.99, "60.0 s"), (75, "1 min 15 s"), (3600, "1 h 00 min"), (7383, "2 h 03 min")],
)
def test_times_read_like_a_clock(seconds, text):
    assert wording.clock(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(-0.04, "0.0"), (NAN, "\u2013"), (None, "\u2013"), (12.36, "12.4")])
def test_numbers_have_one_digit_and_no_negative_zero(value, text):
    assert wording.number(value) == text


@pytest.mark.parametrize(("size", "mode", "kind"), [((40, 30), "RGBA", "png"), ((2000, 1000), "L", "jpeg")])
def test_pictures_travel_as_small_data_uris(size, mode, kind):
    import base64

    head, data = wording.picture(png(size, mode)).split(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (min(size[0], 320), min(size[1], 320 if size[0] == size[1] else 160))


def test_write_leaves_the_page_and_every_figure_as_png(tmp_path):
    path = page.write(ReportInput("t", (run("a/b"), run("c"))), tmp_path)
    assert path == tmp_path / "report.html"
    names = {"curves", "matrix-a-b", "beta-a-b", "matrix-c", "beta-c"}
    assert {png.stem for png in (tmp_path / "figures").glob("*.png")} == names


def test_a_page_shows_what_its_pulls_did() -> None:
    rows = tuple({"step": s, "loss": 1.0, "old_loss_rise": 0.1, "pull_weight": 2.0, "pull_capped": 0.5} for s in (1, 2))
    pulled = replace(run("a"), steps=(StageSteps("VQAv2 · kronecker", rows),))
    shown, plain = (page.render(ReportInput("t", (each,))) for each in (pulled, run("b")))
    assert "Pull towards old tasks" in shown
    assert "Pull towards old tasks" not in plain


def test_decisions_of_the_codebook_are_put_into_words():
    config = GroupingConfig(fallback="newest")
    joined = page.placed(Placement("b", 0, False, (0.75, 0.25), 1.0, 0.5, (0.25, 0.75)), 9)
    assert joined == Decision("b", "train", "g0", "joins", {"g0": 0.75, "g1": 0.25}, 0.5, 9, gap=(0.25, 0.75))
    lost = page.routed(Route("b", "test", "why", None, (0.125,), True, 0.5), config)
    assert lost == Decision("b", "test", "base", "fallback: newest", {"g0": 0.125}, 0.5, None, "why")


# Warnings, answers, studies


def test_warnings_stand_first_and_are_linked():
    page = page_of(run(), warnings=("35 of 40 samples are answered by g7", ATTACK))
    assert page.text.index("35 of 40 samples") < page.text.index("average accuracy")
    assert any(attributes.get("id") == "warnings" for _, attributes in page.tags)
    assert "#warnings" in {link["href"] for link in page.all("a")}
    assert not page.all("script")
    assert "Warnings" not in page_of(run()).text


def test_a_reason_and_a_note_are_told_once_for_all_runs():
    noted = [replace(run(name), notes={"train red": "continued after step 4"}) for name in ("one", "two", "three")]
    page = page_of(*noted)
    assert page.text.count("fwt needs the untuned model's scores") == 1
    assert page.text.count("continued after step 4") == 1


def test_a_reason_of_one_run_names_it():
    alone = RunReport("alone", AccuracyMatrix(("red",), np.array([[80.0]])), {})
    assert "forgetting needs two tasks or more (alone)" in page_of(run("both"), alone).text


def test_answers_stand_beside_a_constant_one_and_unlearnt_tasks_are_marked():
    told = (
        TaskAnswers(
            "red",
            100,
            "yes",
            50.0,
            52.0,
            40.0,
            (("yes", 96), ("", 4)),
            (("no", 100),),
            learnt_normalised=52.0,
            final_normalised=48.0,
        ),
        TaskAnswers("second", 100, "x" * 90, 5.0, 70.0, 70.0, (("a", 3),), ()),
    )
    page = page_of(replace(run(), answers=told))
    assert "red not learnt 100 50.0 yes 52.0 40.0 52.0 48.0 yes (96) , (empty) (4) no (100)" in page.text
    assert page.text.count("not learnt") == 1
    assert "x" * 50 not in page.text


def test_the_normalised_matrix_stands_below_the_accuracy_matrix_where_it_is_known():
    other = AccuracyMatrix(("red", "second"), np.array([[80.0, NAN], [77.7, 70.0]]))
    page = page_of(replace(run(), normalised=other))
    assert "Normalised: case, articles and punctuation do not count" in page.text
    assert "lost to the form of answers" in page.text
    assert "Normalised: case" not in page_of(run()).text


def test_rounds_of_stretches_are_told_where_there_are_some():
    page = page_of(replace(run(), rounds=(Round(None, 60.0), Round(44.04, 78.0))))
    assert "1 \u2013 60.0 2 44.0 78.0" in page.text
    assert "Rounds" not in page_of(run()).text


def test_the_loss_has_a_figure_where_it_was_recorded():
    steps = (StageSteps("red", ({"step": 1.0, "loss": 2.0},)),)
    assert "Training loss" in page_of(replace(run(), steps=steps)).text
    assert "Training loss" not in page_of(run()).text


def studied(shown=3, **fields):
    """Two methods, two seeds; the best single run is one of the method that is worse on average."""
    averages = {"plain": (80.0, 20.0), "ours": (60.0, 62.0)}
    matrices = {
        f"{label}-seed{seed}": AccuracyMatrix(("red", "second"), np.array([[70.0, NAN], [average, average]]))
        for label, seeds in averages.items() for seed, average in enumerate(seeds)
    }  # fmt: skip
    labels = {name: name.split("-")[0] for name in matrices}
    values = {
        label: [matrix for name, matrix in matrices.items() if labels[name] == label] for label in ("plain", "ours")
    }
    methods = {
        label: {
            name: None if None in column else stats.spread(column)
            for name in ("avg_acc", "forgetting", "new_acc", "fwt")
            for column in [[metrics(matrix)[name].value for matrix in found]]
        }
        for label, found in values.items()
    }
    tasks = {label: {"red": TaskSpread(stats.spread([70.0, 70.0]), stats.spread([1.0, 4.0]))} for label in values}
    compared = stats.holm({"ours": stats.paired([60, 62], [80, 20])})
    one = {
        "minutes": [1.0, 2.0],
        "kept_mb": [0.0, 0.5],
        "adapters": [2, 3],
        "adapters_mb": [4, 6],
        "all_kept_mb": [0, 1],
    }
    costs = {label: {name: stats.spread(found) for name, found in one.items()} for label in values}
    varied = {"grouping.threshold": 0.25, ATTACK: ATTACK, "lora.r": 8}
    settings = {"plain": Setting(ATTACK, varied), "ours": Setting("ours", {**varied, "lora.r": 16})}
    asked = GeneralSpread(True, stats.spread([50.0, 50.0]), stats.spread([20.0, 30.0]), stats.spread([-30.0, -20.0]))
    judged = GeneralSpread(False, stats.spread([0.25, 0.25]), None, None)
    general = {"plain": {ATTACK: asked}, "ours": {ATTACK: asked, "mme/score": judged}}
    tables = StudyTables(
        "plain", labels, methods, {}, tasks, {"avg_acc": compared}, costs, settings=settings, general=general
    )
    runs = tuple(RunReport(name, matrix, {}) for name, matrix in list(matrices.items())[:shown])
    return page_of(*runs, study=tables, matrices=matrices, **fields)


def searched():
    """A search of two trials, one of which has failed."""
    drawn = {ATTACK: ATTACK, "strategy.rho": 1.5}
    first = {"number": 0, "drawn": drawn, "tasks": 2, "whole": True, "value": 61.0, "failed": "", "order": None}
    failed = {**first, "number": 1, "whole": False, "value": None, "failed": ATTACK}
    objective = {"metric": "avg_acc", "direction": "max", "split": "validation"}
    return {"objective": objective, "best": 0, "trials": [first, failed]}


def test_a_study_is_told_by_means_and_spreads_and_only_a_mean_is_crowned():
    text = studied().text
    assert "plain 2 50.0 ± 42.4" in text
    assert "ours 2 61.0 ± 1.4 (best)" in text
    # The luckiest single run has 80.
    assert "80.0 (best)" not in text
    assert "Compared with plain" in text
    # Differences -20 and 42: d = 11 / (62 / sqrt 2) = 0.25, t = 11 / 31, p = 1 - 2/pi atan(11 / 31).
    assert "ours 2 +11.0 [-20.0, +42.0] 0.25 0.783 0.783 1.000 1.000" in text
    assert "can reach: 0.5 (n = 2); fewer than 6 pairs are too few for a verdict." in text
    # The costs close the row of a method.
    assert "ours 2 61.0 ± 1.4 (best) 9.0 ± 1.4 (best) 65.5 ± 0.7 (best) \u2013 1.50 0.25" in text
    assert "just learnt 70.0 ± 0.0" in text
    assert "at the end 2.5 ± 2.1" in text


def test_a_study_tells_of_what_is_never_trained():
    text = studied().text
    assert f"method {' '.join(ATTACK.split())} mme/score plain before training 50.0 ± 0.0 \u2013" in text
    assert "ours before training 50.0 ± 0.0 0.2500 ± 0.0000 at the end 25.0 ± 7.1 \u2013 change -25.0" in text


def test_a_study_shows_what_was_learnt_against_what_was_forgotten_and_every_run():
    found = studied()
    names = [attributes.get("aria-label", "") for attributes in found.all("figure")]
    assert [name.split(";")[0] for name in names[:2]] == ["new_acc against forgetting", "avg_acc of every run"]
    assert "forgetting in percent" in found.text
    # Both methods have a row of their own, and the one order of the tasks is not told by colours.
    assert "avg_acc in percent" in found.text
    assert page_of(run()).text.count("forgetting in percent") == 0


def test_every_figure_of_a_study_has_its_numbers_below_it():
    found = studied()
    figures = [attributes["aria-label"] for attributes in found.all("figure") if "below" in attributes["aria-label"]]
    tables = [attributes.get("aria-label", "") for attributes in found.all("div")]
    names = [name.removesuffix("; its numbers are below") for name in figures if name.endswith("are below")]
    assert names == [
        "new_acc against forgetting",
        "avg_acc of every run",
        "scores over each varied number",
        "adapters, avg_acc and forgetting over the threshold",
    ]
    assert [table for table in tables if table.startswith("numbers of")] == [f"numbers of {name}" for name in names]
    assert found.text.count("Numbers of this figure") == 4
    assert f"lora.r 8 {' '.join(ATTACK.split())} 2 50.0 ± 42.4 lora.r 16 ours 2 61.0 ± 1.4" in found.text


def test_a_search_shows_its_trials_as_lines_and_as_a_table():
    found = studied(search=searched())
    assert any("each trial was given" in attributes.get("aria-label", "") for attributes in found.all("figure"))
    assert "All trials (2)" in found.text
    assert f"0 {ATTACK} 1.5 2 61.0 best" in found.text
    # A search over one value of a number has nothing to draw over it, and it groups by no threshold.
    assert "What was varied" not in found.text
    assert "Groups per threshold" not in found.text


def test_what_a_study_is_told_by_stays_text():
    failed = {ATTACK: ATTACK}
    for found in (studied(failed=failed, stages=STAGES), studied(search=searched(), failed=failed, stages=STAGES)):
        assert found.all("script") == []
        assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
        assert {tag for tag, _ in found.tags} & {"img", "iframe", "link"} == set()


def test_the_page_says_what_was_shared():
    told = "The runs ask for 12 trainings, 9 of them distinct. 4 were trained in this session"
    assert f"{told}; 5 were in the store already." in page_of(run(), stages=STAGES).text
    assert "What was shared" not in page_of(run()).text


def test_the_page_names_what_failed_with_the_reason_where_it_is_known():
    text = page_of(run(), stages=STAGES, failed={"one": "", "trial 3": "loss is nan"}).text
    assert "4 were trained in this session. Failed (2) one trial 3: loss is nan" in text


def test_every_run_of_a_study_is_listed_and_the_page_says_which_it_shows():
    text = studied(shown=1).text
    for name in ("plain-seed0", "plain-seed1", "ours-seed0", "ours-seed1"):
        assert name in text
    assert "Below, 1 of the 4 runs are shown one by one." in text
    assert "shown one by one" not in studied(shown=4).text


def test_a_long_instruction_keeps_a_width_to_wrap_in():
    told = Decision("second", "test", "g1", "routed", samples=4, instruction="Answer the question with one word.")
    text = page.render(ReportInput("t", (replace(run(), decisions=(told,)),)))
    assert '<span class="instruction">Answer the question with one word.</span>' in text
    assert re.search(r"\.instruction \{[^}]*min-width: 14rem", text)
