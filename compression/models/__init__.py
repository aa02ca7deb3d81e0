"""What a model is: its architecture, its files, their validation, and which of its modules is which."""
