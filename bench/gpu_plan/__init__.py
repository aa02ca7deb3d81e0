"""Memory plans of training that need no card: a step on fake tensors, and a step in a process of its own, beside forecasts."""
