"""Applications on Ray Serve: what is deployed, what of it changes in place, and what they were told before."""
