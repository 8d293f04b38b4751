"""One module for each version, in the order of their numbers; a version that was released isn't changed any more."""
