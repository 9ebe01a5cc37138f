"""Order of releases: priorities, turns of tenants, limits, caps; nobody is held up by another's limit."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.policy.dispatch import (
    Candidate,
    DispatchPolicy,
    Limit,
    Stream,
    Turn,
    choose,
    stream_name,
    stream_parts,
    window,
)
from playbill.policy.ratelimit import Bucket, Rate

T0 = datetime(2025, 1, 1, tzinfo=UTC)


def jobs(name: str, count: int, *, priority: int = 5, late_s: float = 0.0, weight: int = 1) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(f"{name}{number:03}", priority, T0 + timedelta(seconds=late_s + number), weight)
        for number in range(count)
    )


def stream(tenant: str = "", count: int = 3, *, partition: str = "", actor: str = "", **how: int) -> Stream:
    return Stream(tenant, partition, actor, jobs(f"{tenant}{partition}{actor}", count, **how))


def chosen(policy: DispatchPolicy, streams: list[Stream], room: int = 100, turn: Turn | None = None, **known):
    return choose(
        policy,
        streams,
        room=room,
        running=known.get("running", {}),
        buckets=known.get("buckets", {}),
        turn=turn or Turn(),
        now_s=known.get("now_s", 1000.0),
    )


def test_the_highest_priority_goes_first_then_who_was_due_first():
    # Given: jobs of one stream, in the order of the store
    ordered = (*jobs("h", 2, priority=9), *jobs("m", 2), *jobs("l", 1, priority=1))
    # Then
    choice = chosen(DispatchPolicy(priorities=True), [Stream("", "", "", ordered)], room=4)
    assert choice.ids == ("h000", "h001", "m000", "m001")


def test_without_priorities_who_was_due_first_goes_first_over_all_streams():
    policy = DispatchPolicy(limits=(Limit(Rate(100, 1.0, 100), "tenant"),))
    early, late = stream("b", 2, late_s=-10, priority=1), stream("a", 2, priority=10)
    assert chosen(policy, [late, early], room=3).ids == ("b000", "b001", "a000")


def test_tenants_take_turns_by_their_weights_whatever_they_have_waiting():
    policy = DispatchPolicy(fair=True, weights={"gold": 3})
    streams = [stream("flood", 90), stream("gold", 90), stream("small", 2)]
    ids = chosen(policy, streams, room=12).ids
    assert [id_.rstrip("0123456789") for id_ in ids] == [
        "flood", "gold", "gold", "gold", "small", "flood", "gold", "gold", "gold", "small", "flood", "gold",
    ]  # fmt: skip


@given(rooms=st.lists(st.integers(0, 5), min_size=30, max_size=60))
def test_turns_go_on_where_they_stopped_however_small_the_steps(rooms):
    policy = DispatchPolicy(fair=True, weights={"b": 3})
    turn, got = Turn(), Counter()
    sequence = []
    for room in rooms:
        choice = chosen(policy, [stream("a", 9), stream("b", 9), stream("c", 9)], room=room, turn=turn)
        turn = choice.turn
        sequence += [id_[0] for id_ in choice.ids]
        got.update(id_[0] for id_ in choice.ids)
    whole = "abbbc" * (len(sequence) // 5 + 1)
    assert "".join(sequence) == whole[: len(sequence)]


def test_a_limited_partition_holds_up_no_other():
    policy = DispatchPolicy(limits=(Limit(Rate(10, 60.0, burst=2), "tenant"),))
    choice = chosen(policy, [stream("a", 50), stream("b", 1, late_s=500)])
    assert choice.ids == ("a000", "a001", "b000")
    assert choice.blocked == {("a", "", ""): "limit"}
    assert choice.buckets[0, "a"].tokens == 0
    assert choice.buckets[0, "b"].tokens == 1


def test_all_limits_of_a_job_must_allow_it_and_only_its_own_are_drawn_from():
    policy = DispatchPolicy(
        limits=(Limit(Rate(10, 60.0, burst=5)), Limit(Rate(1, 60.0, burst=1), "none", actor="slow"))
    )
    choice = chosen(policy, [stream("", 3, actor="slow"), stream("", 9, actor="fast", late_s=100)])
    assert choice.ids == ("slow000", "fast000", "fast001", "fast002", "fast003")
    assert {key: bucket.tokens for key, bucket in choice.buckets.items()} == {(0, ""): 0, (1, ""): 0}


def test_a_heavy_job_draws_what_it_weighs():
    policy = DispatchPolicy(limits=(Limit(Rate(10, 60.0, burst=5)),))
    assert len(chosen(policy, [stream(count=9, weight=2)]).ids) == 2


def test_no_more_of_a_key_than_allowed_at_once():
    policy = DispatchPolicy(per_key=2)
    streams = [stream("", 5, partition="k1"), stream("", 5, partition="k2", late_s=50), stream("", 4)]
    choice = chosen(policy, streams, running={"k1": 1})
    assert Counter(id_[:2] for id_ in choice.ids) == {"k1": 1, "k2": 2, "00": 4}


def test_what_is_paused_stays_and_the_rest_goes():
    policy = DispatchPolicy(paused_actors=frozenset({"mail"}), paused_tenants=frozenset({"t2"}))
    streams = [stream("t1", 2, actor="mail"), stream("t1", 2, actor="pdf"), stream("t2", 2, actor="pdf")]
    assert chosen(policy, streams).ids == ("t1pdf000", "t1pdf001")


def test_no_room_releases_nothing_and_moves_no_turn():
    choice = chosen(DispatchPolicy(fair=True), [stream("a"), stream("b")], room=0, turn=Turn("a", 2))
    assert choice.ids == ()
    assert choice.turn == Turn("a", 2)


def test_an_old_bucket_has_refilled():
    policy = DispatchPolicy(limits=(Limit(Rate(60, 60.0, burst=3)),))
    assert len(chosen(policy, [stream(count=9)], buckets={(0, ""): Bucket(0.0, 998.0)}).ids) == 2


@pytest.mark.parametrize(
    ("policy", "shape"),
    [
        (DispatchPolicy(), None),
        (DispatchPolicy(paused=True), None),
        (DispatchPolicy(priorities=True), ""),
        (DispatchPolicy(max_concurrency=3), ""),
        (DispatchPolicy(per_key=1), "p"),
        (DispatchPolicy(fair=True), "t"),
        (DispatchPolicy(limits=(Limit(Rate(1, 1.0, 1), "key", "mail"),)), "pa"),
        (DispatchPolicy(limits=(Limit(Rate(1, 1.0, 1), "tenant"),), paused_actors=frozenset({"x"})), "ta"),
    ],
)
def test_streams_are_told_apart_by_what_the_rules_look_at(policy, shape):
    assert policy.shape == shape


@given(st.sampled_from(["", "t", "p", "a", "tp", "ta", "pa", "tpa"]), *[st.text("abcü -", max_size=5)] * 3)
def test_a_streams_name_reads_back(shape, tenant, partition, actor):
    parts = stream_parts(stream_name(shape, tenant=tenant, partition=partition, actor=actor))
    wanted = (tenant, partition, actor)
    assert parts == tuple(value if letter in shape else "" for letter, value in zip("tpa", wanted, strict=True))


def test_the_window_is_twice_the_free_slots_or_a_second_of_work():
    assert window(0, 0.0) == 0
    assert window(-3, 0.0) == 0
    assert window(8, 3.0) == 16
    assert window(0, 812.4) == 813
