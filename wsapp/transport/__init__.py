"""Bytes on sockets: the gunicorn worker, WebSocket frames, Engine.IO.  gevent and gunicorn live here."""
