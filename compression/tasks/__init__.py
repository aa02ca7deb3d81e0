"""One file a task: its head, its loss, its metric."""
