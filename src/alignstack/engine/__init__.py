"""Runs any list of layers and names none: configuration → `Stack` → run, evaluate-all, replay."""
