"""The pure ring: data and `now` in, decisions out.  No I/O, no clock, no sleep; stdlib and wsapp.errors only."""
