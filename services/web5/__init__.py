"""The web5 service: DIDs, proofs of identity, address links, and records of payments."""
