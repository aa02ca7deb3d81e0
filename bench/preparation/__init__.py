"""Whether the job's own preparation finds an original as good as a grid of rates and epochs does."""
