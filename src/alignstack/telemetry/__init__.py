"""What is measured while serving, and what it is called: every name stands in one place."""
