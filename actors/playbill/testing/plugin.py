"""The pytest plugin: fixtures only, and nothing imported until one of them is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playbill.testing.harness import Harness


@pytest.fixture
def playbill_inline() -> Iterator[Harness]:
    """Jobs run as soon as they are enqueued; see :func:`playbill.testing.inline`."""
    from playbill.testing.harness import inline

    with inline() as harness:
        yield harness


@pytest.fixture
def playbill_manual() -> Iterator[Harness]:
    """Jobs wait until the test runs them; see :func:`playbill.testing.manual`."""
    from playbill.testing.harness import manual

    with manual() as harness:
        yield harness
