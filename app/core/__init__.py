"""What every other folder may import, and which imports none of them: settings, logs, traces, errors, ids."""
