"""The kernel's count of processes killed for want of memory."""

from __future__ import annotations

import pytest

from playbill.worker.oom import oom_kills

V2 = "low 0\nhigh 0\nmax 31\noom 4\noom_kill 3\noom_group_kill 1\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"


@pytest.fixture
def source(tmp_path):
    def write(text, name="events"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("text", "count"), [(V2, 3), (V1, 7), ("oom_kill 0\n", 0)])
def test_both_versions_of_cgroups_are_read(source, text, count):
    assert oom_kills((source(text),)) == count


def test_the_first_source_that_says_it_counts(source, tmp_path):
    assert oom_kills((tmp_path / "missing", source("oom 4\n", "old"), source(V1, "v1"), source(V2, "v2"))) == 7


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill many\n", "oom_kills 5\n", "oom_kill -1\n", "\n\n"])
def test_what_cannot_be_read_counts_nothing(source, text):
    assert oom_kills((source(text),)) == 0


def test_a_machine_without_cgroups_counts_nothing(tmp_path):
    assert oom_kills((tmp_path / "missing", tmp_path)) == 0


def test_this_machine_can_be_asked():
    assert oom_kills() >= 0
