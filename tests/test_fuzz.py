"""A seeded part of `make fuzz`: 300 damaged files, senseless options and wrong arguments, all refused in a sentence."""

import jaxtyping
import pytest

from tests.fuzz.__main__ import problems


@pytest.mark.slow
def test_nothing_ends_in_a_traceback_or_is_taken_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # so that the library's own checks are met
    assert problems(0, 300, tmp_path) == []
