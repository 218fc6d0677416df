"""A failed browser test shows what its server logged."""

from tests.harness import show_server_logs

pytest_runtest_makereport = show_server_logs
