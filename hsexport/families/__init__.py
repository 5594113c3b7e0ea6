"""One folder a model family, behind the contract in family.py; no other room knows a family's words."""
