"""The bitcoin service over gRPC, one file per RPC service."""
