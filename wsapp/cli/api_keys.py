"""`wsapp api-key create | list | revoke`: keys of the server API."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import click

from wsapp.core.api_keys import SCOPES, make_key
from wsapp.core.ports import Backend
from wsapp.emitter import open_from
from wsapp.errors import ErrorCode, RequestError
from wsapp.settings import load_settings


@click.group("api-key")
def api_key_command() -> None:
    """Make, list and revoke keys of the server API (/api/v1).

    Kept in Redis as SHA-256; workers notice within a second.

    \b
    wsapp api-key create deploy --scope publish --scope read
    wsapp api-key list
    wsapp api-key revoke deploy
    """


def _open() -> Backend:
    return open_from(load_settings(os.environ))


@api_key_command.command("create")
@click.argument("name")
@click.option("--scope", "-s", "scopes", type=click.Choice(SCOPES), multiple=True, required=True,
              help="What it may do; may be repeated.")
@click.option("--print-setting", is_flag=True, help="Keep nothing; print the entry for WSAPP_API_KEYS as well.")
def create(name: str, scopes: tuple[str, ...], print_setting: bool) -> None:
    """Make a key and print its secret, which is shown only now."""
    try:
        key, secret = make_key(name, scopes, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if print_setting:
        click.echo(f"WSAPP_API_KEYS={key.name}:{'+'.join(sorted(key.scopes))}:{key.digest}", err=True)
    else:
        backend = _open()
        try:
            if not backend.api_keys.add(key):
                raise RequestError(ErrorCode.BAD_REQUEST, f"there is a key {name} already: revoke it first")
        finally:
            backend.close()
    click.echo(secret)


@api_key_command.command("list")
def list_keys() -> None:
    """Name, scopes and age of every key in Redis."""
    backend = _open()
    try:
        keys = backend.api_keys.all()
    finally:
        backend.close()
    for key in keys:
        made = datetime.fromtimestamp(key.created, UTC).isoformat(timespec="seconds")
        click.echo(f"{key.name:24} {'+'.join(sorted(key.scopes)):20} {made}")


@api_key_command.command("revoke")
@click.argument("name")
def revoke(name: str) -> None:
    """Forget a key: its requests are refused from the next second on."""
    backend = _open()
    try:
        if not backend.api_keys.remove(name):
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no key {name} in Redis")
    finally:
        backend.close()
    click.echo(f"revoked {name}")
