"""Admission's state: what Check must know of a key without asking the store."""
