"""Tandem side by side with what somebody would use without it, in one run on one machine."""
