"""`make chaos`: many small real jobs while everything under them is killed at random, then an audit of what is left.

`house.py` holds the service and its servers and starts again what dies; `strikes.py` chooses whom to hit. `orders.py` is the
client, who sends, repeats, cancels and watches, for two teams whose quotas are full; `tenants.py` has these and a third, which
fills its store; `slow_clients.py` floods the API with half requests. `audit.py` looks at rows by plain SQL and at hashes;
`rampage.py` is the run. All chance comes from one seed: the same orders, victims and pauses each time, though never the same
instant.
"""
