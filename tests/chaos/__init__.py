"""`make chaos`: many small real jobs while everything under them is killed at random, then an audit of what is left.

`house.py` holds the service and its servers and starts again what dies; `strikes.py` chooses whom to hit; `orders.py` is the
client, who sends, repeats, cancels and watches; `audit.py` looks at rows and bytes by plain SQL and hashes; `rampage.py` is the
run. All chance comes from one seed: the same orders, victims and pauses each time, though never the same instant.
"""
