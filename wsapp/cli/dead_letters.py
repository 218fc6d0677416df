"""`wsapp dead-letters`: critical events that users did not acknowledge."""

from __future__ import annotations

import json

import click

from wsapp.cli.command_output import printable
from wsapp.emitter import Emitter
from wsapp.errors import ErrorCode, RequestError


@click.group("dead-letters")
def dead_letters_command() -> None:
    """List, requeue or drop critical events that were sent WSAPP_CRITICAL_ATTEMPTS times and not acknowledged.

    \b
    wsapp dead-letters list
    wsapp dead-letters requeue 0193a5b1c2d3e4 ada
    wsapp dead-letters requeue --all
    """


@dead_letters_command.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the event's data.")
def list_command(limit: int, as_json: bool) -> None:
    """Print the dead letters, oldest first: id, user, deliveries, event, rooms."""
    with Emitter() as emitter:
        letters = emitter.dead_letters(limit)
    for letter in letters:
        if as_json:
            click.echo(json.dumps(letter))
        else:
            click.echo(f"{letter['id']}  {printable(letter['user'])}  {letter['attempts']}x  {letter['event']}  "
                       f"{' '.join(letter['rooms'])}")


def _chosen(emitter: Emitter, id: str | None, user: str | None, everything: bool) -> list[tuple[str, str]]:
    if everything:
        return [(letter["id"], letter["user"]) for letter in emitter.dead_letters(10_000)]
    if id is None:
        raise click.UsageError("name the ID of a dead letter, or --all")
    return [(letter["id"], letter["user"]) for letter in emitter.dead_letters(10_000)
            if letter["id"] == id and user in (None, letter["user"])]


def _each(verb: str, told: str, id: str | None, user: str | None, everything: bool) -> None:
    with Emitter() as emitter:
        chosen = _chosen(emitter, id, user, everything)
        if not chosen and not everything:
            raise RequestError(ErrorCode.NOT_FOUND, f"no dead letter {id}{f' of {user}' if user else ''}: "
                                                    f"see wsapp dead-letters list")
        count = sum(bool(getattr(emitter, verb)(*one)) for one in chosen)
    click.echo(f"{count} {told}")


_WHICH = (
    click.argument("id", required=False),
    click.argument("user", required=False),
    click.option("--all", "everything", is_flag=True, help="All dead letters."),
)


@dead_letters_command.command("requeue")
@_WHICH[0]
@_WHICH[1]
@_WHICH[2]
def requeue_command(id: str | None, user: str | None, everything: bool) -> None:
    """Deliver a dead letter again, to USER or to everybody it died for, with its deliveries counted anew."""
    _each("requeue_dead_letter", "requeued", id, user, everything)


@dead_letters_command.command("drop")
@_WHICH[0]
@_WHICH[1]
@_WHICH[2]
def drop_command(id: str | None, user: str | None, everything: bool) -> None:
    """Forget a dead letter, of USER or of everybody it died for."""
    _each("drop_dead_letter", "dropped", id, user, everything)
