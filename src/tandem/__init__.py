"""Fine-tuning and retrieval in tandem, on one Ray cluster."""

__version__ = "0.1.0"
