"""The kernel: its rejections have reasons, and no argument aborts the process."""

from __future__ import annotations

from dataclasses import replace
from time import time
from typing import TYPE_CHECKING

import pytest

from formats.bitcoin.block import Block, serialize_block
from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import BlockHash
from formats.bitcoin.transaction import Output, outpoint
from mesh.errors import FailedPrecondition
from services.bitcoin import miner
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS, Chain
from services.bitcoin.kernel import BlockRejectedError, Kernel, find_invalid_input
from services.bitcoin.mempool import MempoolTx
from services.bitcoin.miner import UNSPENDABLE_SCRIPT
from tests.bitcoin.payer import Payer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from formats.bitcoin.transaction import Transaction

PAYER = Payer()
COIN = outpoint(b"t" * 32, 0)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path / "kernel")
    kernel.open()
    yield kernel
    kernel.close()


def mine(
    kernel: Kernel, count: int, script: bytes = UNSPENDABLE_SCRIPT, branch: bytes = b""
) -> list[Block]:
    chain = Chain(kernel.headers())
    return miner.extend(chain, count=count, now=int(time()), script_pubkey=script, branch=branch)


def submit(kernel: Kernel, blocks: list[Block]) -> list[bool]:
    return [kernel.submit(block) for block in blocks]


def test_valid_block_becomes_the_tip(kernel: Kernel) -> None:
    (block,) = mine(kernel, 1)

    assert kernel.submit(block)
    assert kernel.headers()[-1].hash == block.hash
    assert kernel.read(block.hash) == block.raw


def test_block_submitted_twice_is_stored_once(kernel: Kernel) -> None:
    (block,) = mine(kernel, 1)
    kernel.submit(block)

    assert kernel.submit(block)
    assert len(kernel.headers()) == 2


def test_branch_with_more_work_becomes_the_chain(kernel: Kernel) -> None:
    branch = mine(kernel, 3, branch=b"b")
    main = mine(kernel, 2)
    submit(kernel, main)

    outcomes = submit(kernel, branch)

    assert outcomes == [False, False, True]
    assert kernel.diverge(Chain(kernel.headers()[:1]))[1] == kernel.headers()[1:]
    assert [link.hash for link in kernel.headers()[1:]] == [block.hash for block in branch]


def altered(kernel: Kernel, **changes: int | bytes) -> Block:
    (block,) = mine(kernel, 1)
    header = replace(block.header, **changes)  # type: ignore[arg-type]
    return with_work(replace(block, header=header))


def with_work(block: Block) -> Block:
    attempts = (replace(block.header, nonce=nonce) for nonce in range(1000))
    header = next(header for header in attempts if header.has_work)
    return replace(
        block,
        header=header,
        hash=header.hash,
        raw=serialize_block(header, block.transactions),
    )


def test_rejection_has_the_kernels_reason(kernel: Kernel) -> None:
    submit(kernel, mine(kernel, 12))
    genesis = kernel.headers()[0]
    refused = {
        "time-too-new": altered(kernel, time=int(time()) + 8_000),
        "time-too-old": altered(kernel, time=genesis.time),
        "prev-blk-not-found": altered(kernel, prev_hash=BlockHash(b"?" * 32)),
        "bad-txnmrklroot": altered(kernel, merkle_root=b"?" * 32),
    }

    for reason, block in refused.items():
        with pytest.raises(BlockRejectedError, match=reason) as refusal:
            kernel.submit(block)
        assert refusal.value.hash == block.hash
    assert len(kernel.headers()) == 13


def funded(kernel: Kernel) -> Transaction:
    """Returns a mature coinbase of the payer."""
    first = mine(kernel, 1, PAYER.script)
    submit(kernel, first)
    submit(kernel, mine(kernel, COINBASE_MATURITY_BLOCKS))
    return first[0].transactions[0]


def test_block_with_an_excessive_reward_is_rejected_despite_its_work(
    kernel: Kernel,
) -> None:
    coinbase = funded(kernel)
    payment = PAYER.sweep(coinbase, PAYER.script)
    tip = kernel.headers()[-1]
    greedy = miner.mine(
        height=102,
        prev_hash=tip.hash,
        time=tip.time + 1,
        script_pubkey=PAYER.script,
        selected=[MempoolTx(payment, (), 10**9)],  # claims a fee that the payment lacks
    )

    with pytest.raises(BlockRejectedError, match="bad-cb-amount"):
        kernel.submit(greedy)

    assert kernel.headers()[-1] == tip


def test_block_with_a_wrong_signature_is_refused(kernel: Kernel) -> None:
    coinbase = funded(kernel)
    prevout, amount_sat = PAYER.coin(coinbase)
    theft = Payer(b"\x02").pay([(prevout, amount_sat)], [Output(amount_sat, PAYER.script)])
    tip = kernel.headers()[-1]
    block = miner.mine(
        height=102,
        prev_hash=tip.hash,
        time=tip.time + 1,
        script_pubkey=UNSPENDABLE_SCRIPT,
        selected=[MempoolTx(theft, (), 0)],
    )

    with pytest.raises(BlockRejectedError):
        kernel.submit(block)


def test_closed_chain_is_loaded_again(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.open()
    submit(kernel, mine(kernel, 3))
    links = kernel.headers()
    kernel.checkpoint()
    kernel.close()

    kernel.open()

    assert kernel.headers() == links
    kernel.wipe()
    assert len(kernel.headers()) == 1
    kernel.close()


def test_folder_is_locked_by_one_kernel(kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="another process has the chain"):
        Kernel(tmp_path / "kernel").open()


def test_scripts_are_run_with_the_outputs_they_spend(kernel: Kernel) -> None:
    coin = (Payer().coin(funded(kernel))[0], 5_000_000_000)
    payment = PAYER.pay([coin], [Output(1_000, PAYER.script)])
    right, wrong = Output(5_000_000_000, PAYER.script), Output(5_000_000_001, PAYER.script)

    assert find_invalid_input(payment.raw, [right]) is None
    assert find_invalid_input(payment.raw, [wrong]) == 0
    assert find_invalid_input(payment.raw, [Output(right.amount_sat, b"")]) == 0


@pytest.mark.parametrize("spent", [0, 2])
def test_wrong_number_of_spent_outputs_never_reaches_the_kernel(spent: int) -> None:
    payment = PAYER.pay([(COIN, 5_000)], [Output(1_000, PAYER.script)])

    with pytest.raises(ValueError, match=f"1 inputs cannot spend {spent} outputs"):
        find_invalid_input(payment.raw, [Output(5_000, PAYER.script)] * spent)


def test_bytes_behind_a_transaction_never_reach_the_kernel() -> None:
    payment = PAYER.pay([(COIN, 5_000)], [Output(1_000, PAYER.script)])

    with pytest.raises(MalformedError, match="4 bytes follow the transaction"):
        find_invalid_input(payment.raw + b"junk", [Output(5_000, PAYER.script)])
