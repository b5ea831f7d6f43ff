"""gRPC in both directions: channels, servers, and the interceptors around every call."""
