"""The live part: gevent and python-socketio around the pure core."""
