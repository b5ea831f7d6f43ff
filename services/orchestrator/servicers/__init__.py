"""The RPC services of the orchestrator: parse, ask, format."""
