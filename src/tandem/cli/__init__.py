"""The `tandem` command: a thin client that imports nothing heavy before it must."""
