"""Where a slot is: by what the nodes say, whichever of them can be asked."""

from __future__ import annotations

import time

import pytest

from tests.valkey import Valkey, free_port
from tests.valkey_cluster import ValkeyCluster
from wsapp.backends.redis_errors import Explained
from wsapp.backends.redis_slots import SlotAddress, is_cluster, read_cluster
from wsapp.errors import SettingsError


def test_urls() -> None:
    nodes = read_cluster("valkeys+cluster://u:p%40w@one:7000,[::1]:7001,three/0?ssl_cert_reqs=none")
    assert nodes.seeds == [("one", 7000), ("::1", 7001), ("three", 6379)]
    assert nodes.node.greeting == (("AUTH", "u", "p@w"),)
    there = nodes.at(("two", 7))
    assert (there.where, there.options["host"], there.options["port"]) == ("two:7", "two", 7)
    assert "p@w" not in SlotAddress(nodes, 5).where
    assert is_cluster("redis+cluster://a")
    assert not is_cluster("redis://a")


@pytest.mark.parametrize(("url", "problem"), [
    ("redis+cluster://", "cannot be read"), ("redis+cluster://a:b:c", "cannot be read"),
    ("redis+cluster://a:1,,b:2", "cannot be read"), ("redis+cluster://a/3", "number 0 alone"),
    ("redis+cluster://a?nonsense=1", "no option")])
def test_wrong_urls(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        read_cluster(url)


def test_any_node_tells_who_owns_a_slot(valkeys: ValkeyCluster) -> None:
    dead = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{valkeys.nodes[2].port}"
    for slot in (0, 5461, 16383):
        assert read_cluster(dead).owner(slot, 1.0) == ("127.0.0.1", valkeys.owner(slot).port)


def test_what_is_learned_counts_until_a_node_was_asked_again(valkeys: ValkeyCluster) -> None:
    nodes = read_cluster(valkeys.url)
    right = nodes.owner(7, 1.0)
    nodes.learn(7, ("elsewhere", 1))
    assert (nodes.owner(7, 1.0), nodes.owner(8, 1.0)) == (("elsewhere", 1), right)
    nodes.doubt()
    assert nodes.owner(7, 1.0) == right


def test_an_address_is_connected_to_the_owner_and_knows_when_it_is_another(valkeys: ValkeyCluster) -> None:
    nodes = read_cluster(valkeys.url)
    connection = SlotAddress(nodes, 9).connect(1.0)
    assert (connection.host, connection.port) == ("127.0.0.1", valkeys.owner(9).port)
    assert not SlotAddress(nodes, 9).moved(connection, 1.0)
    assert SlotAddress(nodes, 16000).moved(connection, 1.0)
    connection.disconnect()


def test_nobody_answers() -> None:
    nodes = read_cluster(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(Explained, match="no node of the cluster tells where its slots are"):
        nodes.owner(0, 0.5)
    assert time.monotonic() - began < 5
    assert not SlotAddress(nodes, 0).moved(None, 0.5)


def test_a_server_that_is_no_cluster(valkey: Valkey) -> None:
    with pytest.raises(Explained, match=f"is no node of a cluster: write redis://127.0.0.1:{valkey.port}/0"):
        read_cluster(f"redis+cluster://127.0.0.1:{valkey.port}").owner(0, 1.0)
