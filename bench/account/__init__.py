"""The published account's own case: its targets and results, plans of its shapes, and the same job on a model that is there."""
