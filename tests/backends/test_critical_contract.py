"""What `CriticalStore` promises, held against both families."""

from __future__ import annotations

from tests.backends.conftest import World, eventually
from wsapp.core.ports import Buried, CriticalStore, DeadLetter, Due, Fate, Kept, Limits, Retry, UserDelivery

ID, LATER = "0000000000000a", "0000000000000b"
SOON, LEASE = 0.05, 0.1


def keep(store: CriticalStore, *users: str, id: str = ID, delay: float = 0.001, record: bytes = b"head\nbody") -> None:
    store.keep([Kept(id, record, users or ("ada",), delay)])


def bury(store: CriticalStore, user: str = "ada", id: str = ID) -> UserDelivery | None:
    return store.retry([Retry(user, id, 0.001, 0)])[0]


def ids(found: list[Due]) -> list[str]:
    return [due.id for due in found]


def test_what_is_kept_is_due_after_its_delay(world: World) -> None:
    store = world.open().critical
    keep(store, "ada", "bob", delay=0.2)
    assert store.due(["ada", "bob", "eve"], LEASE) == []
    world.pass_time(0.25)
    assert store.due(["ada", "eve"], LEASE) == [Due("ada", ID, 2, b"head\nbody")]
    assert store.status(ID) == {"ada": (Fate.PENDING, 2), "bob": (Fate.PENDING, 1)}


def test_nothing_for_nobody(world: World) -> None:
    store = world.open().critical
    assert store.due([], LEASE) == store.due(["ada"], LEASE) == store.visit(["ada"], LEASE) == []
    assert (store.retry([]), store.status(ID), store.dead(10)) == ([], {}, [])
    store.keep([])
    keep(store)
    assert (store.due([], LEASE), store.visit([], LEASE)) == ([], [])


def test_two_workers_are_not_given_the_same(world: World) -> None:
    one, other = world.open().critical, world.open().critical
    keep(one)
    world.pass_time(0.02)
    assert ids(one.due(["ada"], LEASE)) == [ID]
    assert other.due(["ada"], LEASE) == []
    world.pass_time(LEASE + 0.05)  # the one died before it said when it is due again
    assert ids(other.due(["ada"], LEASE)) == [ID]
    assert one.status(ID)["ada"].attempts == 3


def test_retry_says_when_it_is_due(world: World) -> None:
    store = world.open().critical
    keep(store)
    world.pass_time(0.02)
    store.due(["ada"], 60.0)
    assert store.retry([Retry("ada", ID, SOON, 99)]) == [UserDelivery(Fate.PENDING, 2)]
    assert store.due(["ada"], LEASE) == []
    world.pass_time(SOON + 0.05)
    assert [due.attempts for due in store.due(["ada"], LEASE)] == [3]


def test_an_acknowledged_event_is_over(world: World) -> None:
    store = world.open().critical
    keep(store, "ada", "bob")
    world.pass_time(0.02)
    assert store.ack("ada", ID)
    assert store.ack("ada", ID)
    assert [due.user for due in store.due(["ada", "bob"], LEASE)] == ["bob"]
    assert store.status(ID)["ada"] == UserDelivery(Fate.ACKED, 1)
    assert store.retry([Retry("ada", ID, 0.001, 0)]) == [None]
    assert not store.ack("eve", ID)
    assert not store.ack("ada", LATER)


def test_keeping_again_changes_nothing(world: World) -> None:
    """Another room, another worker, a replay: an acknowledged event stays so."""
    store = world.open().critical
    keep(store, "ada", "bob", "eve")
    store.ack("ada", ID)
    bury(store, "bob")
    keep(store, "ada", "bob", "eve", delay=60.0)
    world.pass_time(0.02)
    assert [due.user for due in store.due(["ada", "bob", "eve"], LEASE)] == ["eve"]
    assert {user: at.state for user, at in store.status(ID).items()} == {
        "ada": Fate.ACKED, "bob": Fate.DEAD, "eve": Fate.PENDING}


def test_events_come_in_the_order_of_their_ids(world: World) -> None:
    store = world.open().critical
    keep(store, id=LATER, delay=0.001)
    keep(store, id=ID, delay=0.002)
    world.pass_time(0.03)
    assert ids(store.due(["ada"], LEASE)) == [ID, LATER]


def test_a_visit_gives_all_that_is_pending_and_counts_nothing(world: World) -> None:
    store = world.open().critical
    keep(store, delay=60.0)
    keep(store, id=LATER, delay=60.0)
    assert ids(store.visit(["ada", "eve"], SOON)) == [ID, LATER]
    assert ids(store.visit(["ada"], SOON)) == [ID, LATER]  # the other tab
    assert store.status(ID)["ada"].attempts == 1
    assert store.due(["ada"], LEASE) == []
    world.pass_time(SOON + 0.05)
    assert ids(store.due(["ada"], LEASE)) == [ID, LATER]


def test_sent_often_enough_is_a_dead_letter(world: World) -> None:
    store = world.open().critical
    keep(store)
    assert store.retry([Retry("ada", ID, 0.001, 2)]) == [UserDelivery(Fate.PENDING, 1)]
    world.pass_time(0.02)
    store.due(["ada"], LEASE)
    assert store.retry([Retry("ada", ID, 0.001, 2)]) == [UserDelivery(Fate.DEAD, 2)]
    world.pass_time(LEASE + 0.05)
    assert store.due(["ada"], LEASE) == store.visit(["ada"], LEASE) == []
    (letter,) = store.dead(10)
    assert (letter.user, letter.id, letter.attempts, letter.record) == ("ada", ID, 2, b"head\nbody")
    assert letter.died > 0


def test_no_sending_is_counted_beyond_the_most(world: World) -> None:
    store = world.open().critical
    keep(store)
    for attempts in (2, 3, 3):
        world.pass_time(0.02)
        assert [due.attempts for due in store.due(["ada"], 0.001, 2)] == [min(attempts, 3)]
    assert store.status(ID)["ada"].attempts == 2


def test_a_requeued_dead_letter_is_due_at_once(world: World) -> None:
    store = world.open().critical
    keep(store, "ada", "bob")
    bury(store)
    assert not store.requeue("bob", ID)
    assert store.requeue("ada", ID)
    assert not store.requeue("ada", ID)
    assert store.dead(10) == []
    world.pass_time(0.01)
    assert store.due(["ada"], LEASE) == [Due("ada", ID, 1, b"head\nbody")]


def test_a_dead_letter_may_be_acknowledged_late(world: World) -> None:
    store = world.open().critical
    keep(store)
    bury(store)
    assert store.ack("ada", ID)
    assert store.dead(10) == []
    assert store.status(ID)["ada"].state is Fate.ACKED


def test_a_dropped_dead_letter_is_gone(world: World) -> None:
    store = world.open().critical
    keep(store)
    assert not store.drop("ada", ID)
    bury(store)
    assert store.drop("ada", ID)
    assert not store.drop("ada", ID)
    assert not store.requeue("ada", ID)
    assert store.dead(10) == []
    assert store.status(ID)["ada"].state is Fate.DEAD


def test_dead_letters_are_listed_oldest_first_and_bounded(world: World) -> None:
    store = world.open(Limits(dead_letters=3)).critical
    for number in range(5):
        keep(store, id=f"{number:014x}")
        bury(store, id=f"{number:014x}")
        world.pass_time(0.002)
    assert [int(letter.id, 16) for letter in store.dead(10)] == [2, 3, 4]
    assert [int(letter.id, 16) for letter in store.dead(2)] == [2, 3]
    assert store.dead(0) == []


def test_dead_letters_come_in_pages_that_a_removal_does_not_shift(world: World) -> None:
    store = world.open(Limits(critical_items=1)).critical
    for id in [f"{number:014x}" for number in range(6)]:
        keep(store, "ada", "bob", id=id, delay=60.0)
    all_of_them = store.dead(100)
    assert len(all_of_them) == 10
    seen: list[DeadLetter] = []
    while page := store.dead(3, Buried(seen[-1].died, seen[-1].user, seen[-1].id) if seen else None):
        seen += page
        assert store.drop(page[-1].user, page[-1].id), "the place that the next page starts from is gone"
    assert seen == all_of_them


def test_a_full_user_gets_dead_letters(world: World) -> None:
    store = world.open(Limits(critical_items=2)).critical
    for number in range(3):
        keep(store, "ada", id=f"{number:014x}")
    keep(store, "bob", id=f"{2:014x}")
    world.pass_time(0.02)
    assert len(store.due(["ada"], LEASE)) == 2
    assert [(letter.user, letter.id) for letter in store.dead(10)] == [("ada", f"{2:014x}")]
    store.ack("ada", f"{0:014x}")
    keep(store, "ada", id=f"{3:014x}")
    assert len(store.dead(10)) == 1


def test_events_are_forgotten_in_time(world: World) -> None:
    store = world.open(Limits(critical_ttl=0.3, dead_ttl=0.6)).critical
    keep(store, "ada", "bob")
    keep(store, "bob", id=LATER)
    bury(store, "bob", LATER)
    world.pass_time(0.4)
    assert store.due(["ada", "bob"], LEASE) == store.visit(["ada"], LEASE) == []
    assert (store.status(ID), store.ack("ada", ID)) == ({}, False)
    assert [letter.id for letter in store.dead(10)] == [LATER]
    world.pass_time(0.4)
    eventually(lambda: store.dead(10) == [])
    assert not store.requeue("bob", LATER)


def test_names_of_users_are_free(world: World) -> None:
    store = world.open().critical
    users = ("anon:x", "a b", "ünï", "{tag}", "auth0|7", "record")
    keep(store, *users)
    world.pass_time(0.02)
    assert sorted(due.user for due in store.due(users, LEASE)) == sorted(users)
    assert set(store.status(ID)) == set(users)
    for user in users:
        bury(store, user)
    assert sorted(letter.user for letter in store.dead(10)) == sorted(users)


def test_many_users_at_once(world: World) -> None:
    store = world.open().critical
    users = [f"u{number}" for number in range(450)]
    keep(store, *users)
    world.pass_time(0.05)
    assert len(store.due([*users, *(f"v{number}" for number in range(450))], 5.0)) == 450
    assert len(store.visit(users, 5.0)) == 450
    assert store.due(users, LEASE) == []
