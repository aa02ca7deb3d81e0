"""How a stock runtime opens each kind of artifact. Each is a module, imported when an artifact of its kind is opened."""
