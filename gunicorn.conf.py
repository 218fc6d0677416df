"""gunicorn -c gunicorn.conf.py app:app, or any module whose app has a SocketServer."""

import os

from wsapp.launch import (
    bind_address,
    boot_settings,
    on_exit,
    on_reload,
    on_starting,
    ssl_context,
    when_ready,
    worker_count,
)

__all__ = ["on_exit", "on_reload", "on_starting", "ssl_context", "when_ready"]

_settings = boot_settings()

bind = bind_address(_settings)
workers = worker_count()
worker_class = "wsapp.transport.worker.Worker"

# Never preload: greenlets, host ids and Redis connections must be made after the fork.
preload_app = False
# gunicorn's control socket is one per user, not per server: two servers would fight over it.
control_socket_disable = True

# A worker that misses its heartbeat for this long is hung, and is killed and replaced.
timeout = 30
# Workers leave by themselves within WSAPP_DRAIN_TIMEOUT; the kill comes well after it.
graceful_timeout = int(_settings.drain_timeout) + 7
keepalive = 15

# The heartbeat file: on a disk a slow sync can look like a hung worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108

# Read by the master, which hands what it made of them to `ssl_context`.
certfile = _settings.tls_certificate
keyfile = _settings.tls_key or certfile

loglevel = _settings.log_level
