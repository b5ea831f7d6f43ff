"""Features as pure functions: what training, serving and the simulator compute alike."""
