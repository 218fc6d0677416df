// How far this page has come in each room, so that an absence of any length can be filled from the history (DESIGN G3).
//
// Events of different entities overtake each other on the wire, and the latest state of a task stands for older ones.
// So a position is not the highest seq that was seen: it is what the server has confirmed (`positions`), and what
// followed that without a hole.

const MOST_ABOVE = 5000;

export class Positions {
  #rooms = new Map(); // room -> {epoch, safe, above}

  begin(room, epoch, seq) { this.#rooms.set(room, { epoch, safe: seq, above: new Set() }); }

  forget(room) { this.#rooms.delete(room); }

  // The place that a subscription can be taken up from; undefined where nothing is known.
  of(room) {
    const at = this.#rooms.get(room);
    return at && at.epoch ? { epoch: at.epoch, seq: at.safe } : undefined;
  }

  came(meta) {
    for (const [room, seq] of Object.entries(meta.rooms || {})) {
      const at = this.#rooms.get(room);
      const epoch = (meta.epochs && meta.epochs[room]) || meta.epoch;
      if (!at || seq <= at.safe && at.epoch === epoch) continue;
      if (at.epoch !== epoch) {
        if (at.epoch && at.safe) continue; // a `resync` says so, or the next `positions`
        at.epoch = epoch;
      }
      at.above.add(seq);
      this.#rise(at);
    }
  }

  // Not sent, but reported: behind it there is no hole.
  skipped({ room, from, to }) {
    const at = this.#rooms.get(room);
    if (!at || !(from > 0)) return;
    if (from <= at.safe + 1) at.safe = Math.max(at.safe, to);
    this.#rise(at);
  }

  // How many of these have come all the same: a replay begins where the server knows that all has arrived.
  had({ room, from, to }) {
    const at = this.#rooms.get(room);
    if (!at) return 0;
    const below = Math.max(0, Math.min(at.safe, to) - from + 1);
    return below + [...at.above].filter((seq) => seq >= from && seq <= to).length;
  }

  // The server has sent everything up to here.
  confirmed(rooms) {
    for (const [room, { epoch, sent }] of Object.entries(rooms)) {
      const at = this.#rooms.get(room);
      if (!at || !epoch) continue;
      if (at.epoch !== epoch) this.begin(room, epoch, sent);
      else if (sent > at.safe) {
        at.safe = sent;
        this.#rise(at);
      }
    }
  }

  #rise(at) {
    while (at.above.delete(at.safe + 1)) at.safe += 1;
    if (at.above.size > MOST_ABOVE) at.above.clear(); // repeats are dropped by id
    for (const seq of at.above) if (seq <= at.safe) at.above.delete(seq);
  }
}
