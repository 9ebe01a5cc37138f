from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from playbill.scheduler.contact import Contact, was_frozen

LEASE_S = 15.0


def test_no_rescue_without_contact():
    assert not Contact().may_rescue(100.0, lease_s=LEASE_S)


def test_a_rescue_needs_a_full_lease_of_contact():
    contact = Contact()
    for now in range(16):
        contact = contact.met(float(now), lease_s=LEASE_S)
        assert contact.may_rescue(float(now), lease_s=LEASE_S) == (now >= LEASE_S)


def test_a_gap_breaks_contact():
    contact = Contact(since=0.0, last=100.0).met(110.0, lease_s=LEASE_S)

    assert contact == Contact(since=110.0, last=110.0)
    assert not contact.may_rescue(110.0, lease_s=LEASE_S)


def test_old_contact_is_no_contact():
    assert Contact(since=0.0, last=100.0).may_rescue(101.0, lease_s=LEASE_S)
    assert not Contact(since=0.0, last=100.0).may_rescue(110.0, lease_s=LEASE_S)


@given(st.lists(st.floats(min_value=0.0, max_value=20.0), max_size=60), st.floats(min_value=1.0, max_value=30.0))
def test_whenever_a_rescue_is_allowed_the_lease_before_it_had_no_gap_in_which_a_live_worker_could_end(gaps, lease_s):
    now, contact, answers = 0.0, Contact(), []
    for gap in gaps:
        now += gap
        contact = contact.met(now, lease_s=lease_s)
        answers.append(now)
        if contact.may_rescue(now, lease_s=lease_s):
            window = [at for at in answers if at >= contact.since]
            assert window[0] <= now - lease_s
            assert all(later - at <= lease_s / 2 for at, later in itertools.pairwise(window))


def test_only_a_gap_longer_than_the_lease_is_a_freeze():
    assert not was_frozen(90.0, 100.0, lease_s=10.0)
    assert was_frozen(89.0, 100.0, lease_s=10.0)
