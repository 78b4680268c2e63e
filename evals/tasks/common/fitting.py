"""How much fits into a length: prompt budgets, and the size of a generated haystack."""

from __future__ import annotations

from collections.abc import Callable

from evals.errors import UserError


def explicit_budget(length: int | None, max_prompt_tokens: int, max_new_tokens: int) -> int:
    """A prompt budget that a setting gives. Raises UserError where prompt and answer exceed the length."""
    if length is not None and max_prompt_tokens + max_new_tokens > length:
        raise UserError(
            f"max_prompt_tokens {max_prompt_tokens} and an answer of {max_new_tokens} tokens exceed --length {length}: "
            "change one of them."
        )
    return max_prompt_tokens


def fitting_size(tokens: Callable[[int], int], length: int, smallest: int, largest: int | None) -> int:
    """The largest haystack whose prompt, by `tokens(size)`, stays within `length`; at least `smallest`.

    Doubles, then searches between the last two sizes. Tokens grow almost in proportion to size, so the search
    looks where the straight line crosses the length instead of in the middle: a 128K prompt is built some five
    times instead of fifteen.
    """
    low, low_tokens = smallest, tokens(smallest)
    high, high_tokens = low, low_tokens
    while high_tokens <= length:
        if high == largest:
            return high
        low, low_tokens = high, high_tokens
        high = high * 2 if largest is None else min(high * 2, largest)
        high_tokens = tokens(high)
    while high - low > 1:
        crossing = low + (high - low) * (length - low_tokens) / max(high_tokens - low_tokens, 1)
        middle = min(max(int(crossing), low + 1), high - 1)
        middle_tokens = tokens(middle)
        if middle_tokens <= length:
            low, low_tokens = middle, middle_tokens
        else:
            high, high_tokens = middle, middle_tokens
    return low
