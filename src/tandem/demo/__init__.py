"""The whole story, once: `tandem demo`."""
