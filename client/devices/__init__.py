"""A machine as a device of a team: claims profiles, measures them, and sends what it found."""
