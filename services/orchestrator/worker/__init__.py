"""The worker: claims runs, executes them and delivers their messages."""
