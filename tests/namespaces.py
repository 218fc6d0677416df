"""Hosts as network namespaces (ip-netns(8)): each with its own address and loopback, on one bridge with this machine.

A host that is isolated reaches this machine, and this machine it, but no other isolated host: a cut between hosts that
both reach Redis.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from typing import Final, Self

import pytest

_numbers: Final = itertools.count()


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, timeout=30)


class Namespaces:
    """`count` hosts.  This machine has the address `gateway` on the bridge.  Names and addresses are this process's
    own: the kernel takes a moment to forget those of before."""

    def __init__(self, count: int = 2) -> None:
        if os.getuid() != 0 or shutil.which("ip") is None:
            pytest.skip("network namespaces need root and ip(8)")
        number = next(_numbers)
        self._bridge = f"ws{os.getpid() % 100_000}b{number}"
        self._network = f"10.{64 + number % 64}.{os.getpid() % 250}"
        self.gateway = f"{self._network}.1"
        self.names = [f"ws{os.getpid() % 100_000}h{number}x{host}" for host in range(count)]

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("address", "add", f"{self.gateway}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number, name in enumerate(self.names):
                self._add(number, name)
        except subprocess.CalledProcessError as error:
            self._remove()
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        return self

    def _add(self, number: int, name: str) -> None:
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"{name}v", "master", self._bridge, "up")
        _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")

    def address(self, number: int) -> str:
        return f"{self._network}.{number + 2}"

    def place(self, number: int) -> list[str]:
        """What a command that runs there begins with."""
        return ["ip", "netns", "exec", self.names[number]]

    def cut(self, on: bool) -> None:
        """Between the hosts; this machine reaches all of them."""
        for name in self.names:
            _ip("link", "set", "dev", f"{name}v", "type", "bridge_slave", "isolated", "on" if on else "off")

    def _remove(self) -> None:
        for command in (["link", "del", self._bridge], *(["netns", "del", name] for name in self.names)):
            subprocess.run(["ip", *command], check=False, capture_output=True, timeout=30)

    def __exit__(self, *_: object) -> None:
        self._remove()
