"""Many pictures on many replicas, through Ray; Ray is imported inside functions only."""
