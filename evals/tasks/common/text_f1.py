"""Answer normalisation and bag-of-tokens F1, as LongBench and InfiniteBench both define them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ZH_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟"
    "〰〾〿–—‘’‛“”„‟…‧﹏."
)
"""The official list: "《" is not in it, and so stays in the text."""

_DROP_EN = str.maketrans("", "", string.punctuation)
_DROP_ZH = str.maketrans("", "", string.punctuation + ZH_PUNCTUATION)


def normalize_en(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces: in this order, so "a.n" becomes an article."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_DROP_EN)).split())


def normalize_zh(text: str) -> str:
    """Lower case, no ASCII or Chinese punctuation, no white space."""
    return "".join(text.lower().translate(_DROP_ZH).split())


def token_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of tokens; 0 where nothing is shared."""
    shared = sum((Counter(prediction) & Counter(reference)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(reference)
    return 2 * precision * recall / (precision + recall)


def qa_f1(prediction: str, reference: str) -> float:
    """Word F1 of two normalised English answers."""
    return token_f1(normalize_en(prediction).split(), normalize_en(reference).split())
