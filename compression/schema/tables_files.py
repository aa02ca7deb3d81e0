"""Names of the files in which error tables are stored, below a job's checkpoints. Torch-free."""

TABLES = "tables"
"""Their folder, and the name under which a job keeps them; of several datasets each has a folder within."""
STATE = "state.json"
"""The tables, sealed with their digest."""
ORDERS = "orders.safetensors"
"""The order in which each group's units go."""
SOLVED = "solved.json"
"""What a solver knew beside the tables, sealed with its digest: other targets are answered from it."""
FILES = (STATE, ORDERS, SOLVED)
