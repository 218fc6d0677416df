"""The formats in which releases talk to each other, so that two neighbouring ones work in one cluster.

What goes through Redis (records, results, sessions, leases, critical events, control messages, and what the scripts
write) has one format, whose number stands in Redis.  Every connection of a worker, a publisher or a command compares it
with what its release reads; a release that writes a newer one raises it.  What passes Redis by, a connection that is
handed to another worker and the header of a forwarded request, carries its number itself.

The rule: a change of a format ships dark.  Release N+1 reads it and still writes the one before; release N+2 writes it.
So neighbours always understand each other, also when the newer one is taken back.  A field that older releases ignore
(a key more in a JSON object, a control message of a new kind, a flag of a record) is no change of the format.
"""

from __future__ import annotations

from typing import Final

STORED: Final = 1  # what this release writes into Redis
OLDEST: Final = 1  # what it still reads there
NEWEST: Final = 1  # what it reads already
HANDED: Final = 1  # of a connection that is handed to another worker of the server
FORWARDED: Final = 1  # of the header of a request that is forwarded to another host
