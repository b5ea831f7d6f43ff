"""One module for each message: checks it against the stored state, stores it, and replies."""
