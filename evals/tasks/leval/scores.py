"""L-Eval's scores (Evaluation/auto_eval.py, em.py, f1.py and rouge.py of the repository at cd34b05), in 0..1.

Some of its rules surprise; they are kept, since published numbers rest on them: an answer without a letter counts as
"A" (an empty one is wrong), part of the right letters gives a quarter, and a number is right wherever it stands in an
answer that is no number.
"""

from __future__ import annotations

import re
import string
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING

from evals.tasks.common.text_f1 import qa_f1

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

CHOICES = ("coursera", "quality", "tpo")
LETTERS = "ABCD"
GUESS = "A"
"""What an answer without a letter counts as."""
NOISE = ("will be", "of the code", "is", "would be", "the value of", "the result of", "printed")
"""What is struck out of an answer about code, in this order, also inside words."""
PART = 0.25
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(dataset: str, evaluation: str, prediction: str, reference: str) -> dict[str, float]:
    """The scores of a prediction. evaluation: kind of the row (`Row.evaluation`)."""
    if evaluation == "f1":
        return {"score": qa_f1(prediction, reference)}
    if evaluation == "rouge":
        return rouge(prediction, reference)
    if dataset in CHOICES:
        letters = choice(prediction, several=dataset == "coursera")
        graded = letters or (GUESS if prediction.strip() else "")
        return {
            "score": exact_match(graded, right_choice(reference)) if graded else 0.0,
            "unparsed": float(not letters),
        }
    if dataset == "gsm100":
        return {"score": exact_match(whole_number(prediction), whole_number(reference))}
    if dataset == "codeU":
        return {"score": exact_match(code_output(prediction, reference), plain_code(reference))}
    if dataset == "sci_fi":
        return {"score": exact_match(truth(prediction), reference.lower().split("[fact:")[0].strip())}
    return {"score": exact_match(prediction, reference)}


def exact_match(prediction: str, reference: str) -> float:
    """1 for the same letters, a quarter for some of them; for other references 1 for the same number, or where the
    answer that is no number holds the reference, white space and case aside.
    """
    right = _normalised(reference)
    if all(letter in LETTERS for letter in right):
        given = _normalised(prediction)
        return 1.0 if given == right else PART * (set(given) <= set(right))
    try:
        return float(float(prediction) == float(reference))
    except ValueError:
        return float(_squeezed(reference) in _squeezed(prediction))


def _normalised(text: str) -> str:
    """Without punctuation, lower-case articles, and more than single spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.translate(_PUNCTUATION)).split())


def _squeezed(text: str) -> str:
    return text.lower().replace(" ", "")


def choice(response: str, several: bool) -> str | None:
    """The letters that an answer gives; None for one without. several: several may be right (coursera)."""
    if response.strip() and response in LETTERS:
        return response
    if not several and (found := next((c for c in response if c in LETTERS), None)):
        return found
    leading = "".join(takewhile(LETTERS.__contains__, response))
    if len(leading) > 1:
        return _sorted(leading)
    rest = response[len(leading) :].split("Question")[0]
    marked = "".join(re.findall(r"\s*[A-Z](?=[\s.)])", rest))
    if letters := _sorted(leading + marked):
        return letters
    run = re.search(f"[{LETTERS}]+", rest)
    return run.group() if run else None


def right_choice(reference: str) -> str:
    """The letters of the right choices: those in the first word."""
    return "".join(c for c in reference.split()[0] if c in LETTERS) or GUESS


def _sorted(text: str) -> str:
    return "".join(sorted(set(text) & set(LETTERS)))


def whole_number(response: str) -> str:
    """The digits, up to a decimal point, of what follows "The answer is", else of the last word with a digit in the
    first paragraph; empty where there is none.
    """
    if match := re.search(r"The answer is (\S+)", response):
        word = match.group(1)
    else:
        words = response.split("\n\n")[0].split(" ")
        word = next((word for word in reversed(words) if any(c.isdigit() for c in word)), "")
    return "".join(c for c in word.partition(".")[0] if c.isdigit())


def plain_code(text: str) -> str:
    """A printed value without commas, quotes, backslashes and ".0", white space unified."""
    text = re.sub(r"\s+", " ", text)
    for noise in (",", "'", "\\", ".0"):
        text = text.replace(noise, "")
    return text.replace("] [", "][").replace("[ [", "[[").replace("] ]", "]]")


def code_output(response: str, reference: str) -> str:
    """The words after "the final output", else the last ones: three more than the reference has."""
    text, words = plain_code(response), len(reference.split()) + 3
    for noise in NOISE:
        text = text.replace(noise, "")
    _, named, after = text.rpartition("the final output")
    parts = re.split(r"\s+", after if named else text)
    return " ".join(parts[:words] if named else parts[-words:])


def truth(response: str) -> str:
    """ "true" or "false", whichever the first word that holds one of them holds; else a mark that is never right."""
    for word in response.lower().split("[fact:")[0].split():
        if "true" in word:
            return "true"
        if "false" in word:
            return "false"
    return "<error>"


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F of ROUGE-L (`score`), 1 and 2, by rouge-score without stemming."""
    found = _scorer().score(reference, prediction)
    return {
        "score": found["rougeL"].fmeasure,
        "rouge1": found["rouge1"].fmeasure,
        "rouge2": found["rouge2"].fmeasure,
    }


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
