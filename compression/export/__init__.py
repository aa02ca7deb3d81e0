"""Writers of artifacts that stock tools open, and the check that what was reopened answers as the engine does."""
