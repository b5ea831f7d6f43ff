"""The RPC services of ml: parse, ask, format. No rules live here."""
