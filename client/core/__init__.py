"""The client without files: requests as data, the endpoints, and the two drivers that send. Imports nothing of the commands."""
