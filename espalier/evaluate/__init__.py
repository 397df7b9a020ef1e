"""Quality and latency of a model, and the certificate that it is the one stock transformers loads."""
