"""Fuzz targets, one a file: `check(data)` feeds bytes from nowhere to what reads bytes from clients.

    make fuzz                                          # every target for a minute
    make fuzz ARGS="--seconds 600 --target frames"

A target raises when something was raised that its subject does not promise, or when two ways to read the same bytes
disagree.  `SEEDS` are its corpus: well-formed inputs, and whatever once failed.
"""
