"""Retention and age of a queue, as store and scheduler read them."""

from __future__ import annotations

import pytest

from playbill.errors import InvalidInputError
from playbill.policy.queue import RetentionPolicy, max_age_of, retention_of
from playbill.spec.jobqueue import Retention


@pytest.mark.parametrize("spec", [None, {}, {"retention": None}, {"retention": {}}, {"retention": {"failed": None}}])
def test_where_nothing_is_stated_the_models_defaults_hold(spec):
    assert retention_of(spec) == RetentionPolicy(Retention().completed, Retention().failed)


def test_each_is_read_for_itself_and_zero_is_a_value():
    assert retention_of({"retention": {"completed": "0s"}}) == RetentionPolicy(0.0, 604_800.0)
    assert retention_of({"retention": {"failed": "30d"}}) == RetentionPolicy(86_400.0, 2_592_000.0)


def test_age():
    assert max_age_of(None) is None
    assert max_age_of({"maxAge": None}) is None
    assert max_age_of({"maxAge": "1h"}) == 3600.0
    with pytest.raises(InvalidInputError, match=r"^spec\.maxAge: "):
        max_age_of({"maxAge": 5})
