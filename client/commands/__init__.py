"""The commands of `lathe`, one file per noun. They parse arguments, call the client and print."""
