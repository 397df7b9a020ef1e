"""What operators watch: health, queues, workers, usage."""
