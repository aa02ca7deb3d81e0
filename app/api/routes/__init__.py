"""One file a noun. Handlers only translate between HTTP and the domain's functions."""
