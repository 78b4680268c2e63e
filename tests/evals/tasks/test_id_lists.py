"""Lists of token ids that share their numbers."""

from __future__ import annotations

import numpy as np
import pytest

from evals.tasks.common.token_ids.id_lists import KNOWN, listed


@pytest.mark.parametrize("ids", [[], [0, KNOWN - 1, 5], [3, KNOWN, 5]])
def test_a_list_holds_the_ids_as_numbers_of_python(ids: list[int]) -> None:
    found = listed(np.array(ids, dtype=np.int64))
    assert found == ids
    assert {type(token) for token in found} <= {int}


def test_lists_share_their_numbers() -> None:
    one, other = listed(np.array([70_000, 1])), listed(np.array([2, 70_000]))
    assert one[0] is other[1]
