"""The durable engine, without I/O: takes activations, returns records and commands."""
