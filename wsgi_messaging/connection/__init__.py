"""What one broker connection is: its states, its timing, its frames, its thread."""
