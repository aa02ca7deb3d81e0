"""Jobs: their requests, states, queue, results and remedies, and predictions by their models."""
