"""The published score of openai/mrcr."""

from difflib import SequenceMatcher


def score(response: str, answer: str, prefix: str) -> float:
    """Ratio of the sequence matcher for what follows the prefix; 0 for a response that does not begin with it."""
    if not response.startswith(prefix):
        return 0.0
    return SequenceMatcher(None, response.removeprefix(prefix), answer.removeprefix(prefix)).ratio()
