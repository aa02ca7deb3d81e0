"""What data is and what a model is asked about it: tasks, their scores and losses. `text` has what is of texts alone."""
