"""Models as they are used: where they load from, how questions become prompts, what generates."""
