"""Requests of sessions whose worker is on another host: forwarded to it over its ordinary port."""
