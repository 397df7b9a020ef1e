"""What goes on beside jobs: deliveries, publications, polls, healing, clearing up."""
