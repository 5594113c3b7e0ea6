"""LoRAs: read from their files, by a build and by a session alike, and merged into an open bundle's weights."""
