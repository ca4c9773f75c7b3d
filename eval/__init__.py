"""What a trained model is worth: task scores on vLLM, held-out losses, statistics, comparison of runs."""
