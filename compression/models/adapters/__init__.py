"""One file a model family: which weights are coupled, and how its stock config says the new shape."""
