"""Stock runtimes, one module per kind of artifact, imported when such an artifact is opened."""
