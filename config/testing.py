"""For tests: everything that waits waits less.  Intervals keep their order, so the same paths are taken."""

from config.default import Default


class Testing(Default):
    TESTING = True
    PING_INTERVAL = 1000  # ms
    PING_TIMEOUT = 1000  # ms
    WSAPP_SWEEP_INTERVAL = 0.5  # s
    WSAPP_DRAIN_TIMEOUT = 2  # s
