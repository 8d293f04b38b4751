"""What is trained and how: the model, its adapter, DeepSpeed, and the memory that they need."""
