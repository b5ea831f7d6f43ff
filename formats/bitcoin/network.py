"""The networks of Bitcoin that addresses tell apart."""

from enum import StrEnum


class Network(StrEnum):
    MAIN = "main"
    TESTNET4 = "testnet4"
    SIGNET = "signet"
    REGTEST = "regtest"
