"""Who may use the service: teams, keys, sessions, share links, rate limits, and the audit log of their changes."""
