"""Where state lives: tables and sessions, stored bytes, uploads, quotas, and wake-ups through the broker."""
