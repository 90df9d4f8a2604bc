"""What happens between two nights: events come in, and what they leave behind for the next request."""
