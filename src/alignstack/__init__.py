"""Safety of a deployed model, built and measured as one stack: training-time and inference-time alignment."""

__version__ = "0.1.0"
