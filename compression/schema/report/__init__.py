"""What came out: the figures and their definitions. Each is measured on the artifact that is downloaded."""
