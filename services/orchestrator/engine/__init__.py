"""The durable engine, pure: events in, what to journal and what to do next out."""
