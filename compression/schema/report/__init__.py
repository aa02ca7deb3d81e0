"""The results: figures and their definitions. Each is measured on the artifact that users download."""
