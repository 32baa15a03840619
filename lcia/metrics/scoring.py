"""Answer scoring (docs/method.md 6): (prediction, references) -> score in [0, 1], functions composed of small checks.

`strict` scorers are right; `legacy_*` ones make the errors of the benchmarks' own scripts, so that figures compare.
One error of CoIN's scripts has no scorer here: ImageNet answers are aligned by list index, which needs a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import TypeAlias

from lcia.config.benchmarks import ScorerName
from lcia.metrics.captions import CIDER, bleu_4
from lcia.types import CorpusScorer, Scorer, TaskScorer

Box: TypeAlias = tuple[float, float, float, float]

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4",
    "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
# Only those whose spelling without apostrophe is not another word ("were", "its" and "shed" stay what they are).
_CONTRACTION = re.compile(
    "aint|arent|cant|couldve|couldnt|didnt|doesnt|dont|hadnt|hasnt|havent|hes|howd|howll|hows|im|isnt|itd|"
    "itll|ive|maam|mightve|mightnt|mustve|mustnt|neednt|oclock|shes|shouldve|shouldnt|somebodys|someones|"
    "somethings|thats|thered|therere|theres|theyd|theyll|theyre|theyve|twas|wasnt|werent|weve|whatll|"
    "whatre|whats|whatve|whens|whered|wheres|whereve|whod|wholl|whos|whove|whyll|whyre|whys|wont|wouldve|"
    "wouldnt|yall|youd|youll|youre|youve"
)
_TOKEN = re.compile(r"\b[^\W_]\b")
_WORD_FOLLOWS = re.compile(r"\s+[^\W\d_]{2,}")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d+\.?\d*|\.\d+)")


# Exact answers


def fold(text: str) -> str:
    return text.strip().casefold()


def exact(prediction: str, references: Sequence[str]) -> float:
    """Case-folded equality with any reference; blanks around do not count."""
    return float(fold(prediction) in {fold(reference) for reference in references})


def exact_without_dot(prediction: str, references: Sequence[str]) -> float:
    """GQA: equality that also ignores dots at the end."""
    return float(_without_dot(prediction) in {_without_dot(reference) for reference in references})


def legacy_exact(prediction: str, references: Sequence[str]) -> float:
    """VizWiz and VQAv2 in CoIN's scripts: the first reference only, blanks count."""
    return float(bool(references) and prediction.casefold() == references[0].casefold())


def _without_dot(text: str) -> str:
    return fold(text).rstrip(".").rstrip()


# Multiple choice


def choice(prediction: str) -> str | None:
    """The chosen letter: all of the text, or "X." at its start, else the first lone letter that is not an article."""
    text = prediction.strip()
    if len(text) == 1 or re.match(r"[^\W\d_]\.(?!\w)", text):
        return text[0].upper()
    letters = (match for match in _TOKEN.finditer(text) if match[0].isalpha() and not _is_article(text, match))
    return next((match[0].upper() for match in letters), None)


def legacy_choice(prediction: str) -> str | None:
    """As `choice`, but the article "a" is read as choice A, and so is any lone letter or digit."""
    if re.match(r"[A-E](\. |\Z)", prediction):
        return prediction[0]
    first = re.search(r"\b\w\b", prediction)
    return first[0].upper() if first else None


def multiple_choice(prediction: str, references: Sequence[str]) -> float:
    """ScienceQA: the chosen letter against the references' letters."""
    chosen = choice(prediction)
    return float(chosen is not None and chosen in {choice(reference) for reference in references})


def legacy_multiple_choice(prediction: str, references: Sequence[str]) -> float:
    """ScienceQA in CoIN's scripts: see `legacy_choice`."""
    chosen = legacy_choice(prediction)
    return float(chosen is not None and chosen in {choice(reference) for reference in references})


def _is_article(text: str, match: re.Match[str]) -> bool:
    """ "A" or "I" before a word of its own sentence is English, not a choice."""
    return match[0].upper() in {"A", "I"} and _WORD_FOLLOWS.match(text, match.end()) is not None


# Soft accuracy over several human answers


def soft_accuracy(prediction: str, references: Sequence[str]) -> float:
    """TextVQA, VQAv2, VizWiz: mean over leaving each reference out of min(1, equal others / 3), as EvalAI computes it.

    One reference has no others: case-folded equality instead.
    """
    if len(references) < 2:
        return exact(prediction, references)
    answer, equal = plain_answer(prediction), [plain_answer(reference) for reference in references]
    matches = equal.count(answer)
    return fmean(min(1.0, (matches - (other == answer)) / 3) for other in equal) if matches else 0.0


def plain_answer(text: str) -> str:
    """EvalAI's canonical answer: lower case, no punctuation or articles, numbers as digits, contractions unified."""
    lowered = " ".join(text.lower().replace(",", "").replace("?", "").split())
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(lowered).split())
    return " ".join(_contraction(word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a blank vanishes, one between letters becomes a blank; a dot stays before a digit."""
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if beside_blank else " ")
    return re.sub(r"\.(?!\d)", "", text)


def _contraction(word: str) -> str:
    bare = word.replace("'", "")
    return bare if _CONTRACTION.fullmatch(bare) else word


# Containment


def contains(prediction: str, references: Sequence[str]) -> float:
    """ImageNet: case-folded substring in either direction; an answer without a letter or digit is wrong."""
    said = fold(prediction)
    return float(any(map(str.isalnum, said)) and _either_holds_other(said, references))


def legacy_contains(prediction: str, references: Sequence[str]) -> float:
    """ImageNet in CoIN's scripts: the empty prediction is part of every answer and so correct."""
    return float(_either_holds_other(prediction.casefold(), references))


def _either_holds_other(said: str, references: Sequence[str]) -> bool:
    return any(fold(reference) in said or said in fold(reference) for reference in references if fold(reference))


def mentions(prediction: str, references: Sequence[str]) -> float:
    """The answer holds a reference in whole words, case and line breaks aside."""
    said = _one_line(prediction)
    wanted = (_one_line(reference) for reference in references)
    return float(any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said) for text in wanted if text))


def legacy_mentions(prediction: str, references: Sequence[str]) -> float:
    """OCRBench and MLLM-CL in their scripts: a reference counts inside words too, so "no" is found in "nothing"."""
    said = _one_line(prediction)
    return float(any(_one_line(reference) in said for reference in references))


def _one_line(text: str) -> str:
    return fold(text).replace("\n", " ")


# Boxes


def box(text: str) -> Box | None:
    """The first four numbers of the text, if they span a box (x1 < x2, y1 < y2)."""
    numbers = [float(number) for number in _NUMBER.findall(text)]
    if len(numbers) < 4 or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]


def legacy_box(text: str) -> Box | None:
    """CoIN's parser: brackets are removed and then the first and the last character, once more.

    So "0.1" at the start becomes ".1" (harmless below 1) and the last coordinate loses its last digit.
    """
    bare = text.removeprefix(" ").replace("[", "").replace("]", "")[1:-1].split(",")
    try:
        x1, y1, x2, y2 = map(float, bare)
    except ValueError:
        return None
    return x1, y1, x2, y2


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2) in the same units."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = _area(a) + _area(b) - width * height
    return width * height / union if union > 0 else 0.0


def iou_above_half(prediction: str, references: Sequence[str]) -> float:
    """Grounding: IoU > 0.5 with a reference box (both normalised to the padded square)."""
    return _overlaps(box(prediction), references)


def legacy_iou_above_half(prediction: str, references: Sequence[str]) -> float:
    """Grounding in CoIN's scripts: see `legacy_box`."""
    return _overlaps(legacy_box(prediction), references)


def _area(a: Box) -> float:
    return (a[2] - a[0]) * (a[3] - a[1])


def _overlaps(found: Box | None, references: Sequence[str]) -> float:
    wanted = [true for reference in references if (true := box(reference))]
    return float(found is not None and any(iou(found, true) > 0.5 for true in wanted))


# Free text


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """InstrDialog: best F1 of the longest common subsequence of words (ROUGE-L, Lin 2004)."""
    words = _words(prediction)
    return max((_lcs_f1(words, _words(reference)) for reference in references), default=0.0)


def anls(prediction: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity, ST-VQA and DocVQA (Biten et al. 2019).

    max over references of 1 - NL where NL < 0.5, else 0. NL: edit distance over the longer text's length, lower case,
    runs of blanks as one.
    """
    from rapidfuzz.distance import Levenshtein

    said = _spaced(prediction)
    distances = (Levenshtein.normalized_distance(said, _spaced(reference)) for reference in references)
    return max((1.0 - distance if distance < 0.5 else 0.0 for distance in distances), default=0.0)


def similarity(prediction: str, references: Sequence[str]) -> float:
    """Best share of characters in common: 1 - (insertions + deletions) / (both lengths), as FuzzyWuzzy's ratio."""
    from rapidfuzz import fuzz

    return max((fuzz.ratio(prediction, reference) / 100 for reference in references), default=0.0)


def _spaced(text: str) -> str:
    return " ".join(text.lower().split())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _lcs_f1(a: Sequence[str], b: Sequence[str]) -> float:
    return 2 * _lcs(a, b) / (len(a) + len(b)) if a and b else 0.0


def _lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence; `row[j]` is that of the words read so far and b[:j]."""
    row = [0] * (len(b) + 1)
    for word in a:
        previous = row
        row = [0]
        for j, other in enumerate(b):
            row.append(previous[j] + 1 if word == other else max(previous[j + 1], row[j]))
    return row[-1]


# The second look: case, articles and punctuation aside


def normalised_exact(prediction: str, references: Sequence[str]) -> float:
    """Equality of plain answers: without case, articles and punctuation, numbers as digits (VQA, Antol et al. 2015)."""
    return float(plain_answer(prediction) in {plain_answer(reference) for reference in references})


def normalised_soft(prediction: str, references: Sequence[str]) -> float:
    """`soft_accuracy`, which compares plain answers but where there is only one reference."""
    return (normalised_exact if len(references) < 2 else soft_accuracy)(prediction, references)


def normalised_contains(prediction: str, references: Sequence[str]) -> float:
    """`contains` of plain answers."""
    return contains(plain_answer(prediction), [plain_answer(reference) for reference in references])


def normalised_mentions(prediction: str, references: Sequence[str]) -> float:
    """`mentions` of plain answers."""
    return mentions(plain_answer(prediction), [plain_answer(reference) for reference in references])


_NORMALISED: Mapping[TaskScorer, Scorer] = MappingProxyType(
    {
        exact: normalised_exact,
        exact_without_dot: normalised_exact,
        soft_accuracy: normalised_soft,
        contains: normalised_contains,
        mentions: normalised_mentions,
    }
)


def normalised(strict: TaskScorer) -> TaskScorer:
    """The scorer of the column beside a strict one, in which case and wording do not count; where they do not count
    anyway (choices, boxes, overlap of texts), the strict scorer itself."""
    return _NORMALISED.get(strict, strict)


def fitted(scorer: TaskScorer, references: Sequence[Sequence[str]]) -> Scorer:
    """What scores one answer, after a look at the references of all where the scorer needs that."""
    return scorer.fit(references) if isinstance(scorer, CorpusScorer) else scorer


# Names

Pair: TypeAlias = tuple[TaskScorer, TaskScorer]
"""(strict, legacy)."""


_PAIRS: Mapping[ScorerName, Pair] = MappingProxyType(
    {
        "exact": (exact, legacy_exact),
        "multiple_choice": (multiple_choice, legacy_multiple_choice),
        "soft_accuracy": (soft_accuracy, soft_accuracy),
        "contains": (contains, legacy_contains),
        "mentions": (mentions, legacy_mentions),
        "iou": (iou_above_half, legacy_iou_above_half),
        "rouge_l": (rouge_l, rouge_l),
        "anls": (anls, anls),
        "similarity": (similarity, similarity),
        "bleu_4": (bleu_4, bleu_4),
        "cider": (CIDER, CIDER),
    }
)


def pair(name: ScorerName) -> Pair:
    """The strict and the legacy scorer of a configuration's name."""
    return _PAIRS[name]
