"""The bundle format: its manifest, read strictly and written atomically. Imports hsengines alone."""
