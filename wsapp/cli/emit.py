"""`wsapp emit`: one event from a shell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from wsapp.core.events import strict_loads
from wsapp.core.ports import Receipt
from wsapp.emitter import Emitter
from wsapp.errors import PayloadError
from wsapp.schemas import STATUSES

_OPTIONS = (
    click.option("--priority", type=click.IntRange(0, 10), default=5, show_default=True, help="9 and 10: unthrottled."),
    click.option("--also-to", multiple=True, metavar="ROOM", help="One more room, as task:t1; may be repeated."),
    click.option("--key", default="", help="Idempotency key: the same key is published once."),
    click.option("--critical", is_flag=True, help="Redelivered until the client acknowledges it."),
)


def _publishing(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _more(text: str | None) -> Mapping[str, Any]:
    more = _json(text) if text else {}
    if not isinstance(more, dict):
        raise PayloadError("--data must be a JSON object", {"data": ["must be an object"]})
    return more


def _json(text: str) -> Any:
    try:
        return strict_loads(text)
    except ValueError as error:
        raise PayloadError(f"--data is not JSON: {error}", {"data": [str(error)]}) from None


def _publish(verb: str, *arguments: Any, **options: Any) -> None:
    with Emitter() as emitter:
        receipt: Receipt = getattr(emitter, verb)(*arguments, **options)
    places = " ".join(f"{place.room}#{place.seq}" for place in receipt.places)
    click.echo(f"{receipt.id} {places}{' duplicate' if receipt.duplicate else ''}")


@click.group("emit")
def emit_command() -> None:
    """Publish one event; prints its id and its place in each room.

    \b
    wsapp emit thought --agent coder "reading the tests"
    wsapp emit task --task t1 --status in_progress --progress 42
    wsapp emit project --project p1 deployed '{"version": "1.2"}'
    """


@emit_command.command("thought")
@click.option("--agent", required=True, help="The agent's id.")
@click.option("--task", help="taskId.")
@click.option("--project", help="projectId.")
@click.option("--data", help="More keys, as a JSON object.")
@_publishing
@click.argument("text")
def thought_command(agent: str, task: str | None, project: str | None, data: str | None, text: str,
                    **options: Any) -> None:
    """Publish TEXT as a thought of an agent, to the room agent:AGENT.

    \b
    wsapp emit thought --agent coder "reading the tests"
    wsapp emit thought --agent coder --task t1 --also-to task:t1 "two of them fail"
    """
    thought = {**_more(data), **_given(agentId=agent, thought=text, taskId=task, projectId=project)}
    _publish("broadcast_agent_thought", thought, **options)


@emit_command.command("task")
@click.option("--task", required=True, help="The task's id.")
@click.option("--status", required=True, type=click.Choice(STATUSES), help="Its state.")
@click.option("--progress", type=float, help="Percent, 0 to 100.")
@click.option("--message", help="A line about it.")
@click.option("--agent", help="agentId.")
@click.option("--project", help="projectId.")
@click.option("--data", help="More keys, as a JSON object.")
@_publishing
def task_command(task: str, status: str, progress: float | None, message: str | None, agent: str | None,
                 project: str | None, data: str | None, **options: Any) -> None:
    """Publish the state of a task, to the room task:TASK.

    \b
    wsapp emit task --task t1 --status in_progress --progress 42 --message "writing the parser"
    wsapp emit task --task t1 --status failed --message "tests fail" --also-to project:p1 --priority 9
    """
    percent = int(progress) if progress is not None and progress.is_integer() else progress
    update = {**_more(data), **_given(taskId=task, status=status, progress=percent, message=message, agentId=agent,
                                      projectId=project)}
    _publish("broadcast_task_update", update, **options)


@emit_command.command("project")
@click.option("--project", required=True, help="The project's id.")
@_publishing
@click.argument("event")
@click.argument("data", default="{}")
def project_command(project: str, event: str, data: str, **options: Any) -> None:
    """Publish EVENT with DATA (any JSON) to the room project:PROJECT.

    \b
    wsapp emit project --project p1 deployed '{"version": "1.2"}'
    """
    _publish("broadcast_project_event", project, event, _json(data), **options)
