"""Attacks: one file each, one pure function `name(text, rng) -> str` each; plugins join by entry point.

They rewrite the last user turn of a harmful item. Benign items are never attacked, and always stand beside them.
"""
