"""Bitcoin Core's consensus code, in this process. The only module that imports it.

Arguments that would abort the process (a wrong input index, flags or number of spent outputs) are
checked before every call. What the kernel accepted since it was opened is on disk only after
``close``: whoever needs it keeps the raw blocks elsewhere, first.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import shutil
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pbk
import pbk.capi.bindings as capi
from pbk.notifications import NotificationInterfaceCallbacks
from pbk.script import PrecomputedTransactionData

from formats.bitcoin.hashes import BlockHash, display
from formats.bitcoin.transaction import parse_transaction
from mesh.errors import FailedPrecondition, Reason
from services.bitcoin.chain import Chain, HeaderRef

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from formats.bitcoin.block import Block
    from formats.bitcoin.transaction import Output

KEPT_LOG_LINES = 16

log = logging.getLogger(__name__)


class BlockRejected(FailedPrecondition):
    """The consensus rules refuse a block (BLOCK_REJECTED), in the kernel's own words."""

    def __init__(self, hash: BlockHash, why: str) -> None:
        super().__init__(f"block {display(hash)} is refused: {why}", reason=Reason.BLOCK_REJECTED)
        self.hash = hash


class KernelFailed(RuntimeError):  # noqa: N818  (a state, as in mesh.errors)
    """The kernel cannot go on: its files are damaged, or it could not write them."""


@dataclass(slots=True)
class _Record:
    """What callbacks leave behind. They run inside the kernel, so they do nothing else."""

    verdicts: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # by block hash
    log: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LOG_LINES))
    failure: str = ""

    def block_checked(self, _: object, block: Any, state: Any) -> None:
        verdict = (state.validation_mode, state.block_validation_result)
        self.verdicts[bytes(block.block_hash)] = verdict

    def logged(self, line: str) -> None:
        self.log.append(line)

    def failed(self, _: object, message: Any, length: int) -> None:
        self.failure = ctypes.string_at(message, length).decode(errors="replace")


class Kernel:
    """A regtest chain in a folder that belongs to one process at a time. Calls block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = threading.Lock()  # a call whose caller was cancelled still ends before close
        self._record = _Record()
        self._chainstate: Any = None
        self._context: Any = None
        self._log: Any = None
        self._lock: Any = None

    def open(self) -> None:
        """Load what the last ``close`` left; damaged files are thrown away, and the chain is empty.

        FailedPrecondition (KERNEL_LOCKED) if another process has the folder open.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise FailedPrecondition(
                f"another process has the chain in {self._folder} open; stop it first",
                reason=Reason.KERNEL_LOCKED,
            ) from None
        self._log = pbk.LoggingConnection(cb=self._record.logged)
        self._reopen()

    def close(self) -> None:
        """Put everything on disk."""
        with self._turn:
            self._close()
        self._log = None
        if self._lock is not None:
            self._lock.close()

    def checkpoint(self) -> None:
        """Put everything on disk and go on; closing is the only way that the kernel offers."""
        with self._turn:
            self._close()
        self._reopen()

    def wipe(self) -> None:
        """Start over from genesis."""
        with self._turn:
            self._close()
            self._wipe()
            self._open()

    def submit(self, block: Block) -> bool:
        """Validate and keep a block; True if it is in the active chain then.

        False for a block of a branch with less work, whose scripts have not run yet. One that is
        known already is kept as it is. BlockRejected if a consensus rule refuses it.
        """
        with self._turn:
            self._record.verdicts.clear()
            self._record.log.clear()
            try:
                self._chainstate.process_block(_kernel_block(block.raw))
            except pbk.ProcessBlockException:
                raise BlockRejected(block.hash, self._reject_reason()) from None
            self._check_health()
            mode, _ = self._record.verdicts.get(block.hash, (pbk.ValidationMode.VALID, 0))
            entry = self._find(block.hash)
            if entry is None or mode != pbk.ValidationMode.VALID:
                raise BlockRejected(block.hash, self._reject_reason())
            return entry in self._chainstate.get_active_chain().block_tree_entries

    def links(self) -> list[HeaderRef]:
        """The active chain, genesis first."""
        return self.diverge(Chain([]))[1]

    def diverge(self, chain: Chain) -> tuple[int, list[HeaderRef]]:
        """The height of the last block in common, and what follows it here; -1: none in common."""
        with self._turn:
            entries = self._chainstate.get_active_chain().block_tree_entries
            height = min(chain.height, len(entries) - 1)
            while height >= 0 and bytes(entries[height].block_hash) != chain[height].hash:
                height -= 1
            return height, [_link(entries[at]) for at in range(height + 1, len(entries))]

    def knows(self, hash: BlockHash) -> bool:
        with self._turn:
            return self._find(hash) is not None

    def read(self, hash: BlockHash) -> bytes | None:
        """A block as the kernel keeps it; None if it does not know or cannot read it."""
        with self._turn:
            entry = self._find(hash)
            try:
                return bytes(self._chainstate.blocks[entry]) if entry else None
            except RuntimeError:
                return None

    def _find(self, hash: BlockHash) -> Any:
        try:
            return self._chainstate.block_tree_entries[pbk.BlockHash(hash)]
        except KeyError:
            return None

    def _reopen(self) -> None:
        try:
            with self._turn:
                self._open()
        except KernelFailed as failure:
            log.warning("the kernel's files are thrown away: %s", failure)
            self.wipe()

    def _open(self) -> None:
        self._record.failure = ""
        callbacks = pbk.ValidationInterfaceCallbacks(block_checked=self._record.block_checked)
        notifications = NotificationInterfaceCallbacks(
            flush_error=self._record.failed, fatal_error=self._record.failed
        )
        options = pbk.ContextOptions()
        options.set_chainparams(pbk.ChainParameters(pbk.ChainType.REGTEST))
        options.set_notifications(notifications)
        options.set_validation_interface(callbacks)
        self._context = pbk.Context(options)
        folders = pbk.ChainstateManagerOptions(
            self._context, str(self._folder / "state"), str(self._folder / "blocks")
        )
        try:
            self._chainstate = pbk.ChainstateManager(folders)
        except RuntimeError as error:
            raise KernelFailed(f"{error}: {self._reject_reason()}") from None

    def _close(self) -> None:
        if self._chainstate is not None:
            self._chainstate.__exit__(None, None, None)
        self._chainstate = self._context = None

    def _wipe(self) -> None:
        for name in ("state", "blocks"):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _check_health(self) -> None:
        if self._record.failure:
            raise KernelFailed(self._record.failure)

    def _reject_reason(self) -> str:
        """The kernel gives the text of a refusal to its log only."""
        refusals = [line for line in self._record.log if "[error]" in line]
        return refusals[-1].partition("[error] ")[2].strip() if refusals else "no reason given"


def _link(entry: Any) -> HeaderRef:
    header = entry.block_header
    return HeaderRef(BlockHash(bytes(entry.block_hash)), int(header.timestamp.timestamp()))


def _kernel_block(raw: bytes) -> Any:
    """``pbk.Block(raw)`` spreads the bytes into Python integers first: 83 ms for a full block."""
    return pbk.Block._from_handle(capi.btck_block_create(_pointer(raw), len(raw)))


def _pointer(raw: bytes) -> ctypes.c_void_p:
    return ctypes.cast(ctypes.c_char_p(raw), ctypes.c_void_p)


def find_invalid_input(raw: bytes, spent: Sequence[Output]) -> int | None:
    """Run the script of every input under all consensus rules; the first that fails, or None.

    ``spent`` are the outputs that the inputs spend, in order. MalformedError unless ``raw`` is
    exactly one transaction; ValueError unless there is one output for each of its inputs.
    """
    inputs = len(parse_transaction(raw).prevouts)
    if len(spent) != inputs:
        raise ValueError(f"{inputs} inputs cannot spend {len(spent)} outputs")
    transaction = pbk.Transaction._from_handle(
        capi.btck_transaction_create(_pointer(raw), len(raw))
    )
    outputs = [
        pbk.TransactionOutput(_kernel_script(output.script_pubkey), output.amount_sat)
        for output in spent
    ]
    precomputed = PrecomputedTransactionData(transaction, outputs)
    for index, output in enumerate(spent):
        script = _kernel_script(output.script_pubkey)
        if not script.verify(
            output.amount_sat, transaction, precomputed, index, pbk.ScriptVerificationFlags.ALL
        ):
            return index
    return None


def _kernel_script(script: bytes) -> Any:
    return pbk.ScriptPubkey._from_handle(
        capi.btck_script_pubkey_create(_pointer(script), len(script))
    )
