"""How long a tab that was away takes from its return until it is current: `python -m benchmarks.returns [rounds]`.

A real Chromium, a real server with two workers, events published during each absence; the page measures itself
(`performance` entries `wsapp-return`): from the browser's event to the server's confirmation that everything was sent.
"""

from __future__ import annotations

import sys

from tests.browser.absences import LINES, LIVE, Absence, freeze, leave, stop, unplug
from tests.browser.chrome import Chrome, find_chromium
from tests.harness import Server

ROUNDS = 20
EVENTS = 20
TAKEN = "performance.getEntriesByName('wsapp-return').map(entry => Math.round(entry.duration * 10) / 10)"
ABSENCES: tuple[Absence, ...] = (freeze, leave, unplug, stop)


def measure(server: Server, chrome: Chrome, absence: Absence, transport: str, rounds: int) -> list[float]:
    """Milliseconds of each return."""
    agent = f"{absence.__name__}-{transport}"
    chrome.open(f"{server.url}/?transport={transport}#agent:{agent}")
    chrome.wait(LIVE, 30)
    for number in range(1, rounds + 1):
        def away() -> None:
            server.emitter.publish_many(("agent-thought", {"agentId": agent, "thought": "missed"})
                                        for _ in range(EVENTS))
        absence(chrome, away)
        expected = number * EVENTS
        chrome.wait(f"{LIVE} && {TAKEN}.length >= {number} && {LINES}.length === Math.min(500, {expected})", 60)
    return [float(value) for value in chrome.js(TAKEN)][:rounds]


def main() -> None:
    """Print percentiles by absence and transport."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    binary = find_chromium()
    if binary is None:
        raise SystemExit("no Chromium here")
    print("absence transport rounds p50_ms p99_ms max_ms")
    with Server(workers=2) as server:
        for absence in ABSENCES:
            for transport in ("websocket", "polling"):
                with Chrome(binary) as chrome:
                    taken = sorted(measure(server, chrome, absence, transport, rounds))
                p99 = taken[min(len(taken) - 1, round(0.99 * len(taken)))]
                print(absence.__name__, transport, len(taken), taken[len(taken) // 2], p99, taken[-1], flush=True)


if __name__ == "__main__":
    main()
