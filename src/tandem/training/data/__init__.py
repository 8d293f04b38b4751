"""From rows to what the workers train on: read, retrieved for, tokenized, masked, packed."""
