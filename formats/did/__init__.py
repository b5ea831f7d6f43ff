"""Formats of decentralized identifiers that resolve without a network."""
