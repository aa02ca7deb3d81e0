"""What a job is: its states, its queue, its results, its remedies, and predictions by its models."""
