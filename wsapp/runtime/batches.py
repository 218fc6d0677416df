"""The frames of a throttled flush: what waited for a session, put together for its profile.

Sessions with the same waiting content share its batches, and with them the encoded frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wsapp.core.backlog import Batch, Waiting
from wsapp.core.events import THOUGHT, Lane, Profile, Publication, packet, strict_dumps, strict_loads
from wsapp.core.session import Session
from wsapp.transport.frames import Frame, Squeeze, joined


def batch_frame(batches: list[Batch], profile: Profile) -> Iterator[tuple[Frame, int]]:
    """Frames and how many events each delivers.  The sdk profile gets everything in one `batch` frame."""
    if profile is Profile.SDK and (len(batches) > 1 or len(batches[0].waits) > 1):
        key = (profile, *batches[1:])
        frame = batches[0].frames.get(key)
        if frame is None:
            frame = batches[0].frames[key] = Frame(b'42["batch",[' + b",".join(map(_items, batches)) + b"]]")
        yield frame, sum(len(batch.waits) for batch in batches)
        return
    for batch in batches:
        if profile is Profile.PLAIN and batch.event == THOUGHT and len(batch.waits) > 1:
            frame = batch.frames.get(profile)
            if frame is None:
                frame = batch.frames[profile] = _plain_thoughts(batch)
            yield frame, len(batch.waits)
        else:
            for wait in batch.waits:
                yield _frame_of(wait, profile), 1


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


def _frame_of(wait: Waiting, profile: Profile) -> Frame:
    if isinstance(wait.item, Publication):
        return single_frame(wait.item, profile, wait.room)
    return Frame(packet(wait.event, wait.item))


def _plain_thoughts(batch: Batch) -> Frame:
    """The thoughts of one agent as ONE `agent-thought` whose data is an array; the deltas of one thought as one."""
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


def _data(wait: Waiting) -> bytes:
    if isinstance(wait.item, Publication):
        return wait.item.data_json(wait.room)
    return strict_dumps(wait.item).encode()


def _items(batch: Batch) -> bytes:
    """A list of `[event, data, meta]`, in the order in which they are to be applied."""
    items: bytes | None = batch.frames.get(_items)
    if items is None:
        items = batch.frames[_items] = b",".join(map(_item, batch.waits))
    return items


def _item(wait: Waiting) -> bytes:
    meta = b"," + wait.item.meta_json() if isinstance(wait.item, Publication) else b""
    return b"[" + strict_dumps(wait.event).encode() + b"," + _data(wait) + meta + b"]"
