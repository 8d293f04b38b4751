"""Versions of fine-tuned models in endpoints: what may take over, what changes then, and the way back."""
