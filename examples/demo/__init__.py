"""The demo and its parts: a relay for the line, a stream of requests, a report."""
