"""The judge: a small classifier of the demo pair's scenes that never saw the pair."""
