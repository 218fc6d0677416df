"""A folder for PYTHONPATH: see `wsapp.stock.patching`."""
