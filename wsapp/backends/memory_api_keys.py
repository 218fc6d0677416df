"""Keys of the server API in this process."""

from __future__ import annotations

from wsapp.core.api_keys import ApiKey


class MemoryApiKeys:
    """`ApiKeys` that end with the process."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    def add(self, key: ApiKey) -> bool:
        """As `ApiKeys.add`."""
        return self._keys.setdefault(key.name, key) is key

    def remove(self, name: str) -> bool:
        """As `ApiKeys.remove`."""
        return self._keys.pop(name, None) is not None

    def all(self) -> list[ApiKey]:
        """As `ApiKeys.all`."""
        return [self._keys[name] for name in sorted(self._keys)]
