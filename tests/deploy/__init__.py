"""What lies in deploy/ and compose.yaml, in the servers that read it."""
