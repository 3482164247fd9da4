"""The private side: where publish commands come in."""
