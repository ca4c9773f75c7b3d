"""What the loss of one example is, and how to fine-tune on it: encoding, per-example losses and gradients, balanced
training."""
