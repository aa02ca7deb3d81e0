"""Who may ask: teams, keys, sessions, share links, rate limits, and the audit log of what they did."""
