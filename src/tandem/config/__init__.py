"""Where this client finds its cluster."""
