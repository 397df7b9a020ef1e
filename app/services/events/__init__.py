"""What happens, told to all who watch."""
