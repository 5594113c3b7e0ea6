"""Verification: engines against torch or goldens, and the strong oracle."""
