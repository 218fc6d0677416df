"""The account of a session: every event has one fate, and the fates add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsapp.core.ledger import Fate, Ledger

ROOM = "agent:a"


def owed(ledger: Ledger, count: int, entity: str = "", session: str = "s") -> None:
    for number in range(1, count + 1):
        ledger.owed(session, f"id{number}", ROOM, number, entity)


def fate(ledger: Ledger, number: int) -> object:
    return ledger.explain("s", f"id{number}")["fate"]


def test_delivered_and_waiting() -> None:
    ledger = Ledger()
    owed(ledger, 3)
    ledger.delivered("s", "id2")
    assert [fate(ledger, number) for number in (1, 2, 3)] == ["waiting", "delivered", "waiting"]
    assert ledger.balance("s") == {"published": 3, "waiting": 2, "delivered": 1, "merged": 0, "shed": 0, "told": 0,
                                   "replayable": 0}


def test_owed_twice_counts_once() -> None:
    ledger = Ledger()
    owed(ledger, 1)
    ledger.delivered("s", "id1")
    ledger.owed("s", "id1", "project:p", 9)
    assert (ledger.balance("s")["published"], fate(ledger, 1)) == (1, "delivered")


def test_merged_into_the_latest_of_its_entity() -> None:
    ledger = Ledger()
    owed(ledger, 3, "t1")
    ledger.owed("s", "other", ROOM, 4, "t2")
    ledger.owed("s", "newer", ROOM, 5, "t1")
    ledger.delivered("s", "id3")
    ledger.merged("s", ROOM, "t1", "id3")
    assert ledger.explain("s", "id1") == {"id": "id1", "fate": "merged", "room": ROOM, "seq": 1, "why": "into id3"}
    assert ledger.explain("s", "other")["fate"] == ledger.explain("s", "newer")["fate"] == "waiting"


def test_shed_is_a_range_of_what_waits() -> None:
    ledger = Ledger()
    owed(ledger, 5)
    ledger.delivered("s", "id3")
    ledger.shed("s", ROOM, 2, 4, "items")
    ledger.shed("s", "agent:other", 1, 9, "items")
    assert [fate(ledger, number) for number in range(1, 6)] == ["waiting", "shed", "delivered", "shed", "waiting"]
    assert ledger.explain("s", "id2")["why"] == "items"


def test_told_and_left() -> None:
    ledger = Ledger()
    owed(ledger, 2)
    ledger.owed("s", "other", "task:t", 1)
    ledger.told("s", ROOM, "epoch")
    ledger.left("s")
    assert [fate(ledger, 1), ledger.explain("s", "other")["fate"]] == ["told", "replayable"]


def test_a_replay_makes_good() -> None:
    ledger = Ledger()
    owed(ledger, 1)
    ledger.left("s")
    ledger.owed("s", "id1", ROOM, 1)
    ledger.delivered("s", "id1")
    assert ledger.balance("s")["delivered"] == ledger.balance("s")["published"] == 1


def test_what_was_never_owed_is_said_so() -> None:
    ledger = Ledger()
    assert ledger.explain("s", "x")["why"] == "the session is not known here"
    owed(ledger, 1)
    ledger.delivered("s", "never")
    assert ledger.explain("s", "never")["fate"] == "unknown"
    assert sum(ledger.balance("nobody").values()) == 0


def test_it_is_bounded() -> None:
    ledger = Ledger(entries=3, sessions=2)
    for number in range(1, 9):
        ledger.owed("s", f"id{number}", ROOM, number)
        ledger.delivered("s", f"id{number}")
    assert (fate(ledger, 1), fate(ledger, 8)) == ("unknown", "delivered")
    assert ledger.balance("s")["delivered"] == 8
    owed(ledger, 1, session="two")
    owed(ledger, 1, session="three")
    assert ledger.explain("s", "id8")["why"] == "the session is not known here"


STEPS = st.lists(st.tuples(st.sampled_from(["owed", "delivered", "merged", "shed", "told", "left"]),
                           st.integers(1, 12)), max_size=60)


@given(STEPS)
def test_the_fates_always_add_up(steps: list[tuple[str, int]]) -> None:
    ledger = Ledger(entries=8)
    for verb, number in steps:
        id = f"id{number}"
        {"owed": lambda id=id, n=number: ledger.owed("s", id, ROOM, n, str(n % 2)),
         "delivered": lambda id=id: ledger.delivered("s", id),
         "merged": lambda id=id, n=number: ledger.merged("s", ROOM, str(n % 2), id),
         "shed": lambda n=number: ledger.shed("s", ROOM, n, n + 3, "items"),
         "told": lambda: ledger.told("s", ROOM, "epoch"),
         "left": lambda: ledger.left("s")}[verb]()
    balance = ledger.balance("s")
    assert balance["published"] == sum(balance[fate.value] for fate in Fate)
    assert min(balance.values()) >= 0


def test_copies_are_counted_and_are_not_owed_twice() -> None:
    ledger = Ledger()
    owed(ledger, 1)
    ledger.delivered("s", "id1")
    ledger.repeated("s", "id1")
    ledger.repeated("s", "id1")
    ledger.repeated("s", "never heard of")
    assert ledger.explain("s", "id1") == {"id": "id1", "fate": "delivered", "room": ROOM, "seq": 1,
                                          "why": "sent again 2 times, as a critical event"}
    assert ledger.balance("s")["published"] == 1
