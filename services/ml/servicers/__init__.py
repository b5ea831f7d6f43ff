"""The RPC services of ml: they parse requests, call the domain and format replies."""
