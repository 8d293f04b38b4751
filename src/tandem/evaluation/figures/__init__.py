"""From scored answers to figures, tests and a verdict: pure functions."""
