"""Training for smaller files with tensorflow-model-optimization, which works on tf_keras models."""
