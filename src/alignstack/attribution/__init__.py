"""Verdict matrix, shares, common-mode failure, diagnoses: pure functions on arrays, and core types in and out."""
