"""The lowest floor, which every other folder may import: settings, logs, traces, errors, ids, base classes of schemas."""
