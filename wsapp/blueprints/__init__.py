"""One file per feature: its socket events and its HTTP routes together."""
