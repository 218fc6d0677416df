from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.valkey import Valkey
from wsapp.backends import redis_scripts
from wsapp.backends.redis_scripts import BY_SHA, PUBLISH, SCRIPTS, Script, publish_in, scripts_in


def test_every_file_is_a_script() -> None:
    files = sorted(path.read_text() for path in (Path(redis_scripts.__file__).parent / "lua").glob("*.lua"))
    assert sorted(script.text for script in SCRIPTS) == files


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.text.split("\n")[0])
def test_the_server_agrees_on_text_and_name(script: Script, valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        assert client.script_load(script.text) == script.sha


def test_in_full_is_the_same_call() -> None:
    script = SCRIPTS[0]
    command = script.command(["k"], [1, b"x"])
    assert command == ("EVALSHA", script.sha, 1, "k", 1, b"x")
    assert script.in_full(command) == ("EVAL", script.text, 1, "k", 1, b"x")


def test_a_partition_has_a_publish_of_its_own() -> None:
    assert publish_in(1, sharded=False) is PUBLISH
    assert scripts_in(1, sharded=False) == SCRIPTS
    texts = {publish_in(count, sharded).text for count in (2, 4) for sharded in (False, True)}
    assert len(texts) == 4
    sharded = publish_in(4, sharded=True)
    assert "local PARTITIONS, SEND = 4, 'SPUBLISH'" in sharded.text
    assert BY_SHA[sharded.sha] is publish_in(4, sharded=True)
    assert sharded in scripts_in(4, sharded=True)
