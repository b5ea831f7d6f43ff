"""The errors of the strict readers of Bitcoin's formats."""


class MalformedError(ValueError):
    """Bytes that are no canonical serialisation, or contradict their own commitments."""


class AddressError(ValueError):
    """A text that is no address, or has a wrong checksum."""


class OtherNetworkError(AddressError):
    """An address of another network; the text names both networks."""
