"""`wsapp partitions`."""

from __future__ import annotations

from tests.cli.conftest import Shell
from wsapp.backends import Limits, open_backend
from wsapp.emitter import Emitter


def test_show_and_divide(wsapp: Shell, emitter: Emitter) -> None:
    assert wsapp("partitions").stdout == "no partitions yet: the first process that connects sets their number\n"
    emitter.broadcast_agent_thought({"agentId": "a", "thought": "x"})
    prefix = wsapp.environ["WSAPP_KEY_PREFIX"]
    assert wsapp("partitions").stdout.splitlines() == ["1 partition", f"   0  {prefix}{{0}}:*  slot 13907"]
    divided = wsapp("partitions", "--set", "3").stdout.splitlines()
    assert divided[0] == "3 partitions"
    assert len(divided) == 4
    refused = wsapp("emit", "thought", "--agent", "a", "x")
    assert refused.returncode == 1
    assert "3 partitions, and this process has WSAPP_PARTITIONS=1: set it to 3" in refused.stderr
    assert wsapp("emit", "thought", "--agent", "a", "x", environ={"WSAPP_PARTITIONS": "3"}).returncode == 0


def test_not_while_workers_live(wsapp: Shell) -> None:
    backend = open_backend(wsapp.environ["REDIS_URL"], Limits(), channel="stock",
                           prefix=wsapp.environ["WSAPP_KEY_PREFIX"], timeout=1.0)
    backend.cluster.beat("w1", {}, 30.0)
    refused = wsapp("partitions", "--set", "3")
    assert refused.returncode == 1
    assert "workers are running: w1; stop every server and publisher first" in refused.stderr
    backend.close()
