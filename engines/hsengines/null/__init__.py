"""A backend that records what is enqueued and computes nothing."""
