"""How much a client may say."""

from __future__ import annotations

from wsapp.runtime.inbound import BURST, FAR, PIECE, Inbound, Verdict


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_has_a_burst_and_a_rate() -> None:
    clock = Clock()
    inbound = Inbound(2, 0, clock)
    verdicts = [inbound.admit("s", None) for _ in range(2 * BURST + 1)]
    assert verdicts == [Verdict.TAKE] * 2 * BURST + [Verdict.REFUSE]
    clock.now = 0.5
    assert [inbound.admit("s", None) for _ in range(2)] == [Verdict.TAKE, Verdict.REFUSE]
    assert inbound.admit("another", None) is Verdict.TAKE


def test_who_goes_on_far_over_it_is_closed() -> None:
    inbound = Inbound(2, 0, Clock())
    verdicts = [inbound.admit("s", None) for _ in range(2 * BURST * (1 + FAR) + 1)]
    assert verdicts.index(Verdict.CLOSE) == 2 * BURST * (1 + FAR)


def test_a_little_over_it_is_never_closed() -> None:
    clock = Clock()
    inbound = Inbound(10, 0, clock)
    for _ in range(2000):
        clock.now += 0.05  # twice the rate
        assert inbound.admit("s", None) is not Verdict.CLOSE


def test_a_users_sessions_share_and_reconnecting_gains_nothing() -> None:
    inbound = Inbound(0, 1, Clock())
    for number in range(BURST):
        assert inbound.admit(f"s{number}", "ann") is Verdict.TAKE
        inbound.forget(f"s{number}")
    assert inbound.admit("fresh", "ann") is Verdict.REFUSE
    assert inbound.admit("fresh", "bob") is Verdict.TAKE


def test_zero_is_no_limit() -> None:
    inbound = Inbound(0, 0, Clock())
    assert {inbound.admit("s", "ann") for _ in range(10_000)} == {Verdict.TAKE}


def test_idle_users_are_let_go() -> None:
    clock = Clock()
    inbound = Inbound(0, 1, clock)
    for number in range(3000):
        clock.now += 1.0
        inbound.admit("s", f"user{number}")
    assert len(inbound._users) <= 1001


def test_requests_count_for_their_user() -> None:
    inbound = Inbound(0, 1, Clock())
    assert [inbound.admit_request("ann") for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert inbound.admit("s", "ann") is Verdict.REFUSE
    assert inbound.admit_request("bob")


def test_a_large_packet_counts_as_several() -> None:
    inbound = Inbound(1, 0, Clock())
    assert inbound.admit("s", None, 8 * PIECE) is Verdict.TAKE
    assert inbound.admit("s", None, 2 * PIECE) is Verdict.REFUSE
    assert inbound.admit("s", None) is Verdict.TAKE
    assert inbound.admit("s", None) is Verdict.REFUSE


def test_one_that_costs_more_than_the_burst_can_still_be_sent() -> None:
    assert Inbound(1, 1, Clock()).admit("s", "ann", 100 * PIECE) is Verdict.TAKE
    assert Inbound(0, 0, Clock()).admit("s", "ann", 100 * PIECE) is Verdict.TAKE


def test_what_a_packet_cost_is_paid_by_those_after_it() -> None:
    clock = Clock()
    inbound = Inbound(1, 0, clock)
    inbound.charge("nobody", None, 100 * PIECE)
    assert inbound.admit("s", None) is Verdict.TAKE
    inbound.charge("s", None, PIECE - 1)
    inbound.charge("s", None, 9 * PIECE)
    assert inbound.admit("s", None) is Verdict.REFUSE
    inbound.charge("s", None, 10_000 * PIECE)
    clock.now = 2.5 * BURST
    assert inbound.admit("s", None) is Verdict.TAKE, "a debt has an end"


def test_a_users_sessions_share_the_cost() -> None:
    inbound = Inbound(0, 1, Clock())
    assert inbound.admit("s", "ann") is Verdict.TAKE
    inbound.charge("s", "ann", 20 * PIECE)
    assert inbound.admit("t", "ann") is Verdict.REFUSE
    assert inbound.admit("t", "bob") is Verdict.TAKE


def test_a_request_may_cost_more_than_one_packet() -> None:
    inbound = Inbound(0, 1, Clock())
    assert [inbound.admit_request("of 10.0.0.1", 4 * PIECE) for _ in range(3)] == [True, True, False]
    assert inbound.admit_request("of 10.0.0.2", 4 * PIECE)
