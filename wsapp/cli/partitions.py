"""`wsapp partitions`: into how many partitions the rooms are divided, and where they are."""

from __future__ import annotations

import os

import click

from wsapp.backends.division import divide, living, read_division
from wsapp.backends.redis_line import open_lines
from wsapp.core.partitions import MOST_PARTITIONS
from wsapp.emitter import broker_url
from wsapp.errors import ErrorCode, RequestError
from wsapp.settings import load_settings

TIMEOUT = 2.0  # seconds for each call to Redis


@click.command("partitions")
@click.option("--set", "count", type=click.IntRange(1, MOST_PARTITIONS), metavar="NUMBER",
              help="Divide the rooms anew.  Every server and publisher must have been stopped.")
def partitions_command(count: int | None) -> None:
    """Show into how many partitions the rooms in Redis are divided, or divide them anew.

    All processes need the same WSAPP_PARTITIONS.  Dividing anew forgets the history: sessions go on, and are told that
    their rooms have begun anew.

    \b
    wsapp partitions
    wsapp partitions --set 8          then start everything with WSAPP_PARTITIONS=8
    """
    settings = load_settings(os.environ)
    url, prefix = broker_url(settings), settings.key_prefix
    if count is not None:
        _divide(url, prefix, count)
    found = read_division(url, prefix, TIMEOUT)
    if found is None:
        click.echo("no partitions yet: the first process that connects sets their number")
        return
    click.echo(f"{found} partition{'s' if found > 1 else ''}")
    for line in open_lines(url, prefix, found):
        click.echo(f"{line.keys.number:>4}  {line.keys.base}*  slot {line.keys.slot}")


def _divide(url: str, prefix: str, count: int) -> None:
    """Raises RequestError while workers live."""
    workers = living(url, prefix, TIMEOUT)
    if workers:
        raise RequestError(ErrorCode.BAD_REQUEST, f"workers are running: {', '.join(workers)}; stop every server and "
                                                  f"publisher first (the lease of a killed worker ends in seconds)")
    divide(url, prefix, count, TIMEOUT)
