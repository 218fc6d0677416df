"""The fault machine: real processes, faults from one seeded schedule, and an oracle that accounts for every event.

    schedule (what breaks when) -> stage (Redis, servers, proxies, clients, publishers) -> oracle (who saw what)
"""
