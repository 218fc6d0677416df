"""Keys of the server API in Redis: one hash, a field per name."""

from __future__ import annotations

from wsapp.backends.redis_wire import RedisPool
from wsapp.core.api_keys import ApiKey
from wsapp.core.events import strict_dumps, strict_loads


class RedisApiKeys:
    """`ApiKeys`: each operation is one command, atomic by itself."""

    def __init__(self, pool: RedisPool) -> None:
        self._pool, self._name = pool, pool.keys.api_keys

    def add(self, key: ApiKey) -> bool:
        """As `ApiKeys.add`."""
        told = strict_dumps({"scopes": sorted(key.scopes), "digest": key.digest, "created": key.created})
        return bool(self._pool.ask([("HSETNX", self._name, key.name, told)])[0] == 1)

    def remove(self, name: str) -> bool:
        """As `ApiKeys.remove`."""
        return bool(self._pool.ask([("HDEL", self._name, name)])[0] == 1)

    def all(self) -> list[ApiKey]:
        """As `ApiKeys.all`."""
        (flat,) = self._pool.ask([("HGETALL", self._name)])
        return sorted((_key(name.decode(), strict_loads(told)) for name, told in zip(flat[::2], flat[1::2],
                                                                                     strict=True)), key=_name)


def _key(name: str, told: dict[str, object]) -> ApiKey:
    scopes, created = told["scopes"], told["created"]
    assert isinstance(scopes, list)
    assert isinstance(created, (int, float))
    return ApiKey(name, frozenset(scopes), str(told["digest"]), created)


def _name(key: ApiKey) -> str:
    return key.name
