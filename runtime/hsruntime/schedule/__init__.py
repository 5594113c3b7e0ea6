"""Schedules as data: their grammar, presets and arithmetic. Imports no engine."""
