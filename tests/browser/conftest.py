"""A failed browser test shows what its server logged."""

from collections.abc import Iterator

import pytest

from tests.browser.chrome import Chrome, find_chromium
from tests.harness import show_server_logs

pytest_runtest_makereport = show_server_logs


@pytest.fixture
def chrome() -> Iterator[Chrome]:
    found = find_chromium()
    assert found is not None
    with Chrome(found) as browser:
        yield browser
