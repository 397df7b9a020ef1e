"""What every criterion, pattern, source and store promises."""
