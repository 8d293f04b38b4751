"""Documents and rows: reading them, setting the broken ones aside, splitting what is left."""
