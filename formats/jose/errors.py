"""The error of the strict JOSE readers."""


class JoseError(ValueError):
    """A token, key or signature that breaks the standard."""
