"""Scorers that one published benchmark needs alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lcia.metrics.scoring import choice, fold, legacy_mentions, mentions, similarity

_ANSWER = re.compile(r"\bAnswer:\s*\(?([A-Za-z])\b")
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.S)


# UCIT


def legacy_within(prediction: str, references: Sequence[str]) -> float:
    """UCIT in its authors' script: a part of a reference counts, so "a" is right for "A and B", and so is silence."""
    return float(any(prediction.casefold() in reference.casefold() for reference in references))


# MLLM-CL


def listed(prediction: str, references: Sequence[str]) -> float:
    """Sci (MapQA): of a reference that lists several things the share that is listed too; else as `mentions`."""
    said = {fold(part) for part in prediction.split(",")}
    return max((_share(reference, said, mentions(prediction, [reference])) for reference in references), default=0.0)


def legacy_listed(prediction: str, references: Sequence[str]) -> float:
    """In the authors' script blanks after commas count. The script demands equality for AI2D, TQA and VQA, which it
    knows by the names of pictures; here a reference may be mentioned anywhere."""
    said = set(prediction.lower().split(","))
    scores = (_share(text.lower(), said, legacy_mentions(prediction, [text]), bare=True) for text in references)
    return max(scores, default=0.0)


def _share(reference: str, said: set[str], otherwise: float, bare: bool = False) -> float:
    parts = [part if bare else fold(part) for part in reference.split(",")]
    return sum(part in said for part in parts) / len(parts) if len(parts) > 1 else otherwise


# TRACE


def answer_letter(prediction: str, references: Sequence[str]) -> float:
    """ScienceQA in TRACE: the letter after "Answer:", or the first that is chosen, against the reference's."""
    said = _letter(prediction)
    return float(said is not None and said in {_letter(reference) for reference in references})


def legacy_answer_letter(prediction: str, references: Sequence[str]) -> float:
    """In the authors' script: the character after "Answer: ", as it is; without these words the answer is wrong."""
    said = prediction.partition("Answer: ")[2][:1]
    return float(said != "" and said in {reference.partition("Answer: ")[2][:1] for reference in references})


def _letter(text: str) -> str | None:
    found = _ANSWER.search(text)
    return found[1].upper() if found else choice(text)


def legacy_equal(prediction: str, references: Sequence[str]) -> float:
    """TRACE's accuracy: equality with the first reference, case and blanks included."""
    return float(bool(references) and prediction == references[0] != "")


def code_similarity(prediction: str, references: Sequence[str]) -> float:
    """Py150: `similarity` with the literals that the data set masks put in again."""
    return similarity(_unmasked(prediction), [_unmasked(reference) for reference in references])


def _unmasked(code: str) -> str:
    plain = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return _LITERAL.sub(r"\1", plain)
