"""fsam: benchmarks of sharpness-aware minimisers."""

__version__ = "0.1.0"
