"""Bitcoin Core's consensus code, in this process. The only module that imports it.

Arguments that would abort the process (a wrong input index, flags or number of spent outputs) are
checked before every call. Accepted blocks are on disk only after ``close``: a caller that must not
lose them appends them to its block log first.
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

MAX_LOG_LINES = 16

log = logging.getLogger(__name__)


class BlockRejectedError(FailedPrecondition):
    """The consensus rules reject a block (BLOCK_REJECTED); the text has the kernel's reason."""

    def __init__(self, hash: BlockHash, why: str) -> None:
        super().__init__(f"block {display(hash)} is rejected: {why}", reason=Reason.BLOCK_REJECTED)
        self.hash = hash


class KernelError(RuntimeError):
    """The kernel's files are damaged, or it could not write them."""


@dataclass(slots=True)
class _Record:
    """The results that callbacks store. They run inside the kernel, so they do nothing else."""

    verdicts: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # by block hash
    log: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    failure: str = ""

    def block_checked(self, _: object, block: Any, state: Any) -> None:
        verdict = (state.validation_mode, state.block_validation_result)
        self.verdicts[bytes(block.block_hash)] = verdict

    def logged(self, line: str) -> None:
        self.log.append(line)

    def failed(self, _: object, message: Any, length: int) -> None:
        self.failure = ctypes.string_at(message, length).decode(errors="replace")


class Kernel:
    """A regtest chain in a folder that one process has open at a time. All calls block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # close waits for a call whose caller was cancelled
        self._record = _Record()
        self._chainstate: Any = None
        self._context: Any = None
        self._log: Any = None
        self._lock_file: Any = None

    def open(self) -> None:
        """Loads the chain of the last ``close``, or an empty one if its files are damaged.

        Raises FailedPrecondition (KERNEL_LOCKED) if another process has the folder open.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_file = (self._folder / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise FailedPrecondition(
                f"another process has the chain in {self._folder} open; stop it first",
                reason=Reason.KERNEL_LOCKED,
            ) from None
        self._log = pbk.LoggingConnection(cb=self._record.logged)
        self._reopen()

    def close(self) -> None:
        """Writes everything to disk, and closes the folder."""
        with self._lock:
            self._close()
        self._log = None
        if self._lock_file is not None:
            self._lock_file.close()

    def checkpoint(self) -> None:
        """Writes everything to disk: closes and opens, as the kernel offers no other way."""
        with self._lock:
            self._close()
        self._reopen()

    def wipe(self) -> None:
        """Deletes the chain, and starts again from genesis."""
        with self._lock:
            self._close()
            self._wipe()
            self._open()

    def submit(self, block: Block) -> bool:
        """Validates and stores a block, and returns whether it is in the active chain.

        False: the block is on a branch with less work, and its scripts have not run. A known block
        stays as it is. Raises BlockRejectedError if the block breaks a consensus rule.
        """
        with self._lock:
            self._record.verdicts.clear()
            self._record.log.clear()
            try:
                self._chainstate.process_block(_kernel_block(block.raw))
            except pbk.ProcessBlockException:
                raise BlockRejectedError(block.hash, self._reject_reason()) from None
            self._check_health()
            mode, _ = self._record.verdicts.get(block.hash, (pbk.ValidationMode.VALID, 0))
            entry = self._find(block.hash)
            if entry is None or mode != pbk.ValidationMode.VALID:
                raise BlockRejectedError(block.hash, self._reject_reason())
            return entry in self._chainstate.get_active_chain().block_tree_entries

    def headers(self) -> list[HeaderRef]:
        """Returns the active chain, genesis first."""
        return self.diverge(Chain([]))[1]

    def diverge(self, chain: Chain) -> tuple[int, list[HeaderRef]]:
        """Returns the height of the last common block (-1: none), and the blocks above it here."""
        with self._lock:
            entries = self._chainstate.get_active_chain().block_tree_entries
            height = min(chain.height, len(entries) - 1)
            while height >= 0 and bytes(entries[height].block_hash) != chain[height].hash:
                height -= 1
            return height, [_header(entries[at]) for at in range(height + 1, len(entries))]

    def knows(self, hash: BlockHash) -> bool:
        with self._lock:
            return self._find(hash) is not None

    def read(self, hash: BlockHash) -> bytes | None:
        """Returns a raw block, or None if the kernel does not have it or cannot read it."""
        with self._lock:
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
            with self._lock:
                self._open()
        except KernelError as failure:
            log.warning("the kernel's files are deleted: %s", failure)
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
            raise KernelError(f"{error}: {self._reject_reason()}") from None

    def _close(self) -> None:
        if self._chainstate is not None:
            self._chainstate.__exit__(None, None, None)
        self._chainstate = self._context = None

    def _wipe(self) -> None:
        for name in ("state", "blocks"):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _check_health(self) -> None:
        if self._record.failure:
            raise KernelError(self._record.failure)

    def _reject_reason(self) -> str:
        """Returns the text of the last rejection, which the kernel only logs."""
        rejections = [line for line in self._record.log if "[error]" in line]
        return rejections[-1].partition("[error] ")[2].strip() if rejections else "no reason given"


def _header(entry: Any) -> HeaderRef:
    header = entry.block_header
    return HeaderRef(BlockHash(bytes(entry.block_hash)), int(header.timestamp.timestamp()))


def _kernel_block(raw: bytes) -> Any:
    """Makes a kernel block without ``pbk.Block(raw)``, which takes 83 ms for a full block."""
    return pbk.Block._from_handle(capi.btck_block_create(_pointer(raw), len(raw)))


def _pointer(raw: bytes) -> ctypes.c_void_p:
    return ctypes.cast(ctypes.c_char_p(raw), ctypes.c_void_p)


def find_invalid_input(raw: bytes, spent: Sequence[Output]) -> int | None:
    """Runs the script of every input under all consensus rules.

    Returns the index of the first input that fails, or None. ``spent`` has the output that each
    input spends, in order. Raises MalformedError unless ``raw`` is exactly one transaction, and
    ValueError unless ``spent`` has one output for each of its inputs.
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
