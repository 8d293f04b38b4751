"""Queue, submit, watch and deploy: decisions are pure functions, thin executors carry them out."""
