"""Finds a bundle's best schedule under one constraint, by counting first and by measuring what counting leaves."""
