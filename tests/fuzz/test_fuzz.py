"""Every target: its seeds, and a short guided run; `make fuzz` runs them for long."""

from __future__ import annotations

import importlib
import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS

ROOT = Path(__file__).resolve().parent.parent.parent
RUNS = 4_000  # over all targets
MUTANTS = 300  # of each target, without guidance


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_becomes_of_them(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.{name}")
    chance = random.Random(name)
    for seed in target.SEEDS:
        target.check(seed)
    for _ in range(MUTANTS):
        target.check(mutated(chance, chance.choice(target.SEEDS), chance.choice(target.SEEDS)))


def mutated(chance: random.Random, seed: bytes, other: bytes) -> bytes:
    """A seed with some bytes changed, gone, or taken from another one."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        cut, piece = chance.randint(0, 3), chance.choice((chance.randbytes(chance.randint(0, 3)), other[at:at + 8]))
        data[at:at + cut] = piece
    return bytes(data)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="Atheris has no wheel for this platform")
def test_a_guided_run(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", "--here", "--runs", str(RUNS), "--seed", "1"],
                          cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
