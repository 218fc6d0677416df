"""The `wsapp` command.  Each command lives in its own module and is loaded when it is named."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from wsapp import __version__
from wsapp.errors import WsappError

_COMMANDS = {
    "api-key": "wsapp.cli.api_keys",
    "config": "wsapp.cli.server_commands",
    "dead-letters": "wsapp.cli.dead_letters",
    "drain": "wsapp.cli.drain",
    "emit": "wsapp.cli.emit",
    "partitions": "wsapp.cli.partitions",
    "run": "wsapp.cli.run",
    "serve": "wsapp.cli.server_commands",
    "tail": "wsapp.cli.tail",
    "url": "wsapp.cli.server_commands",
}


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name]), f"{cmd_name.replace('-', '_')}_command")
        return command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wsapp")
def cli() -> None:
    """Publish what AI agents do, and watch it live.

    \b
    wsapp serve                                      start the server and its page
    wsapp run --agent coder -- python agent.py       publish a command's output
    wsapp tail agent:coder                           watch in a terminal
    wsapp emit thought --agent coder "reading tests" publish one event
    wsapp dead-letters list                          critical events that nobody acknowledged
    wsapp partitions                                 how the rooms are divided in Redis
    wsapp drain                                      send a running server's clients elsewhere
    wsapp api-key create ci --scope publish          a key for the HTTP API
    wsapp config                                     every setting, its value and where it came from

    Redis is found by REDIS_URL; without it, the private one of the server on WEBSOCKET_PORT (3001) is used.
    """


def main() -> NoReturn:
    """Run the command of `sys.argv`.  Exit status: 1 for an error told in one line, 2 for wrong usage, 130 after
    Ctrl-C, 141 when the reader of the output has gone, that of the command for `wsapp run`."""
    try:
        # Not cli.main(), which has exit statuses of its own for Ctrl-C and a closed pipe.
        with cli.make_context("wsapp", sys.argv[1:]) as context:
            status = cli.invoke(context)
    except click.exceptions.Exit as exit:
        status = exit.exit_code
    except WsappError as error:
        click.echo(f"wsapp: {error}", err=True)
        status = 1
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        status = 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit; nobody reads it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status if isinstance(status, int) else 0)
