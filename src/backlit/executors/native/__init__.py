"""The native executor: graphs compiled to machine code through LLVM, whole training loops included.

    graph --passes--> graph --fusion--> groups --lowering--> kernels --memory--> plan --emission--> LLVM --jit--> code

`fusion` decides what is computed together, `lowering` turns each group into a kernel (a frozen record, see `kernels`),
`memory` gives every intermediate value a place in one arena, `nest` and its neighbours write LLVM for one family of
kernels each, `program` strings the kernels together, and `jit` makes it machine code: an `artifact`, which `cache`
keeps under the `digest` of the graph, so that a program that was compiled before needs none of this. llvmlite is
imported here only.
"""

from backlit.executors.native.executor import Native

__all__ = ["Native"]
