"""The RPC services of web5: parse, ask, format. No rules live here."""
