"""What schedules cost and what their pictures are worth, measured side by side in one run."""
