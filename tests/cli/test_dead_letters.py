"""`wsapp dead-letters`."""

from __future__ import annotations

import json

from tests.cli.conftest import Shell
from wsapp.core.ports import Kept, Retry
from wsapp.emitter import Emitter


def bury(emitter: Emitter, id: str, *users: str) -> None:
    record = f'{id}\t7\t5\tc\tc\t\tdeployed\tproject:p\t3\te\n{{"id":"ü"}}'.encode()
    emitter.critical_store.keep([Kept(id, record, users, 60.0)])
    emitter.critical_store.retry([Retry(user, id, 0.0, 0) for user in users])


def test_list(wsapp: Shell, emitter: Emitter) -> None:
    assert wsapp("dead-letters", "list").stdout == ""
    bury(emitter, "01", "ada")
    bury(emitter, "02", "bob")
    assert wsapp("dead-letters", "list").stdout.splitlines() == [
        "01  ada  1x  deployed  project:p", "02  bob  1x  deployed  project:p"]
    (line,) = wsapp("dead-letters", "list", "--json", "--limit", "1").stdout.splitlines()
    told = json.loads(line)
    assert (told["id"], told["user"], told["data"]) == ("01", "ada", {"id": "ü"})
    assert told["died"] > 1_600_000_000_000


def test_requeue(wsapp: Shell, emitter: Emitter) -> None:
    bury(emitter, "01", "ada", "bob", "eve")
    assert wsapp("dead-letters", "requeue", "01", "ada").stdout == "1 requeued\n"
    assert wsapp("dead-letters", "requeue", "01").stdout == "2 requeued\n"
    states = emitter.delivery_status("01")["users"]
    assert {at["state"] for at in states.values()} == {"pending"}
    bury(emitter, "02", "ada")
    bury(emitter, "03", "ada")
    assert wsapp("dead-letters", "requeue", "--all").stdout == "2 requeued\n"
    assert wsapp("dead-letters", "requeue", "--all").stdout == "0 requeued\n"


def test_drop(wsapp: Shell, emitter: Emitter) -> None:
    bury(emitter, "01", "ada", "bob")
    assert wsapp("dead-letters", "drop", "01", "bob").stdout == "1 dropped\n"
    assert [letter["user"] for letter in emitter.dead_letters()] == ["ada"]
    assert wsapp("dead-letters", "drop", "01").stdout == "1 dropped\n"
    assert emitter.dead_letters() == []


def test_faults_are_told(wsapp: Shell) -> None:
    unknown = wsapp("dead-letters", "requeue", "nope", "ada")
    assert (unknown.returncode, unknown.stderr) == (
        1, "wsapp: no dead letter nope of ada: see wsapp dead-letters list\n")
    unnamed = wsapp("dead-letters", "drop")
    assert unnamed.returncode == 2
    assert "--all" in unnamed.stderr
