"""The frames of a throttled flush: what waited for a session, put together for its profile.

Sessions with the same waiting content share the encoded frame: it is cached on its last publication.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wsapp.core.events import THOUGHT, Lane, Profile, Publication, strict_dumps, strict_loads
from wsapp.core.lanes import Batch
from wsapp.core.session import Session
from wsapp.transport.frames import Frame, Squeeze, joined


def batch_frames(batches: list[Batch], profile: Profile) -> Iterator[tuple[Frame, int]]:
    """Frames and how many publications each delivers.  The sdk profile gets everything in one `batch` frame."""
    if profile is Profile.SDK and (len(batches) > 1 or len(batches[0].waits) > 1):
        yield _shared(batches, profile, _sdk_batch), sum(len(batch.waits) for batch in batches)
        return
    for batch in batches:
        if profile is Profile.PLAIN and batch.event == THOUGHT and len(batch.waits) > 1:
            yield _shared([batch], profile, _plain_thoughts), len(batch.waits)
        else:
            for wait in batch.waits:
                yield single_frame(wait.item, profile, batch.room), 1


def send_joined(session: Session, frames: list[Frame], squeeze: Squeeze) -> None:
    """Send frames one after the other, over a socket in one piece."""
    box = session.peer.direct
    if box is None:
        for frame in frames:
            session.peer.push(frame)
    else:
        box.write(joined(frames, squeeze if box.squeezed else None))


def single_frame(publication: Any, profile: Profile, room: str) -> Frame:
    """The frame of one publication that all clients of a profile share who get it through a room."""
    key = (profile, room)
    frame: Frame | None = publication.texts.get(key)
    if frame is None:
        frame = publication.texts[key] = Frame(publication.text(profile, room))
    return frame


def _shared(batches: list[Batch], profile: Profile, encode: Any) -> Frame:
    """One frame for all sessions that wait for just these publications."""
    last: Publication = batches[-1].waits[-1].item  # type: ignore[assignment]
    key = (profile, "+".join(wait.id + wait.room for batch in batches for wait in batch.waits))
    frame: Frame | None = last.texts.get(key)
    if frame is None:
        frame = last.texts[key] = encode(batches)
    return frame


def _plain_thoughts(batches: list[Batch]) -> Frame:
    """The thoughts of one agent as ONE `agent-thought` whose data is an array; the deltas of one thought as one."""
    batch = batches[0]
    if batch.lane is Lane.APPEND:
        return Frame(b'42["agent-thought",' + _joined_delta(batch) + b"]")
    items = b",".join(_data(wait) for wait in batch.waits)
    return Frame(b'42["agent-thought",[' + items + b"]]")


def _joined_delta(batch: Batch) -> bytes:
    """Data as of the last one; `firstSeq` says how far back it reaches, so that nobody takes the jump for a hole."""
    parts = [strict_loads(_data(wait)) for wait in batch.waits]
    joined = {**parts[-1], "thought": "".join(part["thought"] for part in parts)}
    if batch.waits[0].seq and "s" in batch.waits[0].item.flags:  # type: ignore[attr-defined]
        joined.setdefault("firstSeq", batch.waits[0].seq)
    return strict_dumps(joined).encode()


def _data(wait: Any) -> bytes:
    publication: Publication = wait.item
    return publication.data_json(wait.room)


def _sdk_batch(batches: list[Batch]) -> Frame:
    """`batch` with a list of `[event, data, meta]`, in the order in which they are to be applied."""
    items = []
    for batch in batches:
        for wait in batch.waits:
            publication: Publication = wait.item  # type: ignore[assignment]
            items.append(b"[" + strict_dumps(publication.event).encode() + b"," + publication.data_json(batch.room)
                         + b"," + publication.meta_json() + b"]")
    return Frame(b'42["batch",[' + b",".join(items) + b"]]")
