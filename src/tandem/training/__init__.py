"""Fine-tuning: rows become tokens with a loss mask, and Ray Train runs DeepSpeed on them."""
