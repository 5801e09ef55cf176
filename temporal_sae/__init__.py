"""Train sparse autoencoders on language models and ask whether co-activation helps."""
