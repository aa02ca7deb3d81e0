"""`lathe up`: the whole service on this machine, as child processes."""
