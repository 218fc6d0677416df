"""What is installed and shipped is what was tried: bounds, locks with hashes, and the vendored client."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9._-]+")
PINNED = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)(?: ; [^\\]+)? \\$")


def lines(name: str) -> list[str]:
    """The requirements of a file, without comments and markers."""
    found = [line.partition("#")[0].partition(";")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in found if line]


def locked(name: str) -> dict[str, str]:
    """The versions in a lock; each with at least one hash."""
    versions: dict[str, str] = {}
    text = (ROOT / name).read_text()
    for entry in re.split(r"\n(?=[a-z])", text.strip()):
        head, *hashes = entry.splitlines()
        pinned = PINNED.match(head)
        assert pinned is not None, f"{name}: {head}"
        assert hashes, f"{name}: {head} has no hash"
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?", one) for one in hashes), f"{name}: {head}"
        versions[pinned[1]] = pinned[2]
    return versions


def normal(requirement: str) -> str:
    found = NAME.match(requirement)
    assert found is not None
    return found[0].lower().replace("_", "-").replace(".", "-")


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"])
def test_every_requirement_has_an_upper_bound(name: str) -> None:
    unbound = [line for line in lines(name) if not re.search(r"<\d|==\d|~=\d", line)]
    assert not unbound
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert build == lines("requirements-build.txt")


@pytest.mark.parametrize(("lock", "sources"), [
    ("requirements.lock", ["requirements.txt"]), ("requirements-build.lock", ["requirements-build.txt"]),
    ("requirements-dev.lock", ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"])])
def test_locks_have_everything_within_its_bounds(lock: str, sources: list[str]) -> None:
    versions = locked(lock)
    for requirement in (line for source in sources for line in lines(source)):
        version = versions.get(normal(requirement))
        assert version is not None, f"{requirement} is not in {lock}: make lock"
        for sign, bound in re.findall(r"(>=|<|==)([0-9.]+)", requirement):
            at, limit = number(version), number(bound)
            assert {">=": at >= limit, "<": at < limit, "==": at == limit}[sign], f"{requirement}: {version}: make lock"


def test_what_is_tested_is_what_the_image_has() -> None:
    dev = locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in locked("requirements.lock")} == locked("requirements.lock")


def test_image_and_ci_install_by_hash() -> None:
    image, setup = (ROOT / "Dockerfile").read_text(), (ROOT / ".ci" / "setup").read_text()
    assert image.count("--require-hashes -r requirements") == 2
    assert "--require-hashes -r" in setup
    for text in (image, setup):
        for line in re.findall(r"(?:pip|pip_install) (?:install|wheel)?.*", text.replace("\\\n", " ")):
            if re.search(r"pip_install\b(?!\()|pip (install|wheel)", line) and "pip_install()" not in line:
                assert "--require-hashes" in line or "--no-deps" in line or "$@" in line, line


def test_the_vendored_client_is_npms() -> None:
    theirs = ROOT / "tests" / "node_modules" / "socket.io-client" / "dist" / "socket.io.min.js"
    if not theirs.exists():
        pytest.skip("no npm packages here")
    ours = (ROOT / "wsapp" / "blueprints" / "static" / "socket.io.min.js").read_bytes()
    without_map = re.sub(rb"//# sourceMappingURL=[\w.]+\n?$", b"", theirs.read_bytes())  # the map is not shipped
    assert ours == without_map, "copy it from the npm package, whose hash is in tests/package-lock.json"
