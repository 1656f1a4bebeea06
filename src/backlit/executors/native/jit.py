"""From LLVM's language to object code, for any target; and from object code to functions of this process.

An interrupt in the middle of llvmlite can make it free memory twice, or keep its lock closed: the rule that holds is
that llvmlite is only entered where no interrupt comes, be it to take something apart.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from heapq import heappop, heappush
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from backlit.executors.native.errand import undisturbed
from backlit.executors.native.target import Target

_SOON = 1e-4  # seconds
_KNOWN = 22  # the newest LLVM whose options are known: one that it does not have would end the process
_LEFT_OUT = {"disable-lsr": 0, "disable-post-ra": 0, "enable-misched": 1}  # passes, by options and their defaults
_IN_ORDER = "avx512"  # the target whose instructions stay as they are ordered
_lock = threading.RLock()  # LLVM's global state is entered by one thread at a time
_compiling = 0  # who compiles now
_begun: dict[str, Future[bytes]] = {}  # parts that many programs have, compiled or being compiled
_engines: dict[weakref.ref[Loaded], Any] = {}  # LLVM's part of what is loaded; taken apart when the next is loaded


def _hold() -> None:
    """Before a fork: no other thread is within LLVM, whose locks the child would find closed for ever."""
    _lock.acquire()
    ffi.lib._lock.__enter__()


def _let_go() -> None:
    ffi.lib._lock.__exit__()
    _lock.release()


if hasattr(os, "register_at_fork") and hasattr(ffi.lib, "_lock"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begun.clear)  # who compiles them does not live on there


@cache
def _initialize(everything: bool) -> None:
    if everything:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()


def _machine(target: Target, jit: bool) -> Any:
    _initialize(not target.is_host)
    options: dict[str, Any] = {"reloc": "default", "codemodel": "jitdefault"} if jit else {"reloc": "pic"}
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, jit=jit, **options
    )


class Loaded:
    """Object code in memory, ready to run. It stays as long as this object and its functions."""

    def __init__(self, contents: Iterable[bytes], target: Target) -> None:
        undisturbed(lambda: self._load(contents, target))

    def _load(self, contents: Iterable[bytes], target: Target) -> None:
        with _lock:
            for gone in [loaded for loaded in _engines if loaded() is None]:
                del _engines[gone]
            machine = _machine(target, jit=True)
            empty = llvm.parse_assembly(f'target triple = "{target.triple}"')
            self._engine = _engines[weakref.ref(self)] = llvm.create_mcjit_compiler(empty, machine)
            for content in contents:
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(content))
            self._engine.finalize_object()

    def function(self, name: str, *arguments: Any) -> Any:
        """A function of the code, callable from Python; the interpreter lock is released while it runs."""
        found: Any = ctypes.CFUNCTYPE(None, *arguments)(undisturbed(lambda: self._address(name)))
        found.code = self
        return found

    def _address(self, name: str) -> int:
        with _lock:
            return int(self._engine.get_function_address(name))


def object_code(text: str, target: Target, jit: bool = False, inline: bool = False, unroll: bool = False) -> bytes:
    """The text as an object file for any target; `jit`: to be loaded into this process.

    What the generator writes is as it should run. LLVM is asked to improve it only where functions are to be inlined.
    """

    def made() -> bytes:
        with _lock:
            machine = _machine(target, jit)
            module = _inlined(text, machine, unroll) if inline else llvm.parse_assembly(text, llvm.create_context())
        with _as_written(target):
            return _emitted(machine, module)

    return undisturbed(made)


def begin(text: str, target: Target) -> None:
    """Compile a part that many programs have, beside what goes on here: `object_codes` finds it, or waits for it."""
    if text not in _begun:
        pool = ThreadPoolExecutor(1)
        with suppress(RuntimeError):  # the system gives no more threads
            _begun[text] = pool.submit(object_code, text, target, True)
        pool.shutdown(wait=False)


def object_codes(texts: Iterable[str], target: Target, workers: int) -> list[bytes]:
    """Texts as object files for this process, several at once, while the next ones are still being written.

    Of those that wait the longest is taken first, so that all workers end at about the same time.
    """
    stopped: list[None] = []
    waiting: list[tuple[int, int, str]] = []
    found: dict[int, bytes] = {}

    def wanted() -> Iterator[str]:
        for text in texts:
            if stopped:  # by an interrupt: nobody waits for the rest
                return
            yield text

    def code(text: str) -> bytes:
        begun = _begun.get(text)
        return object_code(text, target, jit=True) if begun is None or begun.exception() else begun.result()

    def longest() -> None:
        with suppress(IndexError):  # somebody else has taken it
            _, number, text = heappop(waiting)
            found[number] = code(text)

    def made() -> list[bytes]:
        if workers <= 1:
            return [code(text) for text in wanted()]
        running = []
        with _as_written(target), _brisk(), ThreadPoolExecutor(workers) as pool:
            for number, text in enumerate(wanted()):
                heappush(waiting, (-len(text), number, text))
                with suppress(RuntimeError):  # the system gives no more threads
                    running.append(pool.submit(longest))
        for done in running:
            done.result()
        while waiting:
            longest()
        return [found[number] for number in sorted(found)]

    return undisturbed(made, stop=lambda: stopped.append(None))


@contextmanager
def _as_written(target: Target) -> Iterator[None]:
    """LLVM takes loops and the order of instructions as they are written, which saves a third of its time.

    Places are written as they are best computed and sums as they fill a processor that orders instructions itself, so
    code is no faster with these passes. But where registers are fewer than 32, some products take half as long again
    unless instructions are ordered anew. The options hold for the whole process: they are set only while it compiles.
    """
    _count(1, target)
    try:
        yield
    finally:
        _count(-1, target)


def _count(change: int, target: Target) -> None:
    """One more or less compiles."""
    global _compiling
    with _lock:
        before, _compiling = _compiling > 0, _compiling + change
        after = _compiling > 0
        if before != after and llvm.llvm_version_info[0] <= _KNOWN:
            for option, usual in _LEFT_OUT.items():
                other = after and (option != "enable-misched" or target.name == _IN_ORDER)
                llvm.set_option("", f"-{option}={1 - usual if other else usual}")


@contextmanager
def _brisk() -> Iterator[None]:
    """Threads get the interpreter soon: who compiles needs it for moments, and who writes texts would not let it go."""
    usual = sys.getswitchinterval()
    if usual <= _SOON:
        yield
        return
    try:
        sys.setswitchinterval(_SOON)
        yield
    finally:
        sys.setswitchinterval(usual)


def _emitted(machine: Any, module: Any) -> bytes:
    """The object code of a module.

    llvmlite lets one thread at a time into LLVM, because modules may share a context. These do not, so its lock is
    passed by, if this release of llvmlite has the function behind it where it is looked for.
    """
    emit = getattr(ffi.lib.LLVMPY_TargetMachineEmitToMemory, "_cfn", None)
    if emit is None:
        with _lock:
            return bytes(machine.emit_object(module))
    with ffi.OutputString() as problem:
        buffer = emit(machine, module, 1, problem)
        if not buffer:
            raise RuntimeError(str(problem))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _inlined(text: str, machine: Any, unroll: bool) -> Any:
    """The module of a text with its functions inlined, as far as LLVM does it right.

    SROA of LLVM 22 may join stores of parts of a vector before what is stored has been computed. The verifier sees
    this, and the code is left as it was written.
    """
    for more in (True, False) if unroll else (False,):
        module = llvm.parse_assembly(text, llvm.create_context())
        _inline(module, machine, more)
        try:
            module.verify()
        except RuntimeError:
            continue
        return module
    return llvm.parse_assembly(text, llvm.create_context())


def _inline(module: Any, machine: Any, unroll: bool) -> None:
    """Functions as parts of their callers, and what follows from that; loops of known length written out if `unroll`.

    None of these passes changes a bit of a result, as no fast-math flag is set anywhere.
    """
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_global_dead_code_eliminate_pass()
    for again in (False, True) if unroll else (False,):
        if again:
            passes.add_loop_unroll_pass()
        passes.add_sroa_pass()
        passes.add_sccp_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))


def assembly(text: str, target: Target) -> str:
    """The text as assembly for any target; nothing runs."""

    def made() -> str:
        with _lock, _as_written(target):
            return str(_machine(target, jit=False).emit_assembly(llvm.parse_assembly(text)))

    return undisturbed(made)
