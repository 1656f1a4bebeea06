"""Which nodes are computed together.

A node is one of four things here:

    view       a movement op: costs nothing, its readers read its operand elsewhere (`index`)
    inlined    an elementwise node that one other node reads: computed where it is needed, never stored
    member     of a `Group`: computed by the group's kernel; stored only if another group reads it
    block      an op with a kernel of its own (a group by itself): sorting, scattering, loops

Groups stand in the order in which they run. An elementwise node joins the last group that it depends on, when that
group runs over the same elements and is not read otherwise; so a bias, an activation and its derivative become part of
the product before them. The rule that holds: a group depends on earlier groups only.

Shapes are compared without their axes of size 1, which change nothing about where elements lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from backlit.executors.native.index import Index, counter, flat, split_axes, through, unflat
from backlit.executors.native.kernels import COMBINERS
from backlit.executors.native.turned import turned
from backlit.ir import Graph, Node
from backlit.ops.record import OPS

VIEWS = {"reshape", "permute_dims", "broadcast_to", "slice", "flip", "windows", "stop_gradient"}
BLOCKS = {"concat", "pad", "fold", "scatter_add", "argmax", "argmin", "argsort", "cumulative_sum", "scan"}
_DEPTH = 40  # of inlined expressions: keeps recursion small
_NODES = 64  # in a kernel, inlined ones too: beyond the registers LLVM's time grows faster than the code
_CHEAP = {"add", "subtract", "multiply", "negative", "divide", "relu"}
_QUESTIONS = {"greater", "less", "equal", "greater_equal", "less_equal", "not_equal"}
_SUMS = 4  # at most in one pass
_FAR = 1 << 22  # bytes that lie far from a core
_WINDOW = 16  # elements of a window that is short
_AGAIN = 5  # as many of them in a row are done again
_LARGE = 1 << 15  # numbers in the result of a product that is worth code of its own for what is done with them
_WIDE = 16  # rows and columns that it has then at least


def squeezed(node: Node) -> tuple[int, ...]:
    """The shape of a node's (first) result without axes of size 1."""
    return _squeezed(node.types[0].shape)


@cache
def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def is_pointwise(node: Node) -> bool:
    """Whether each element of the result is made from one element of each operand (gather: at a computed place)."""
    return _is_pointwise(node.op)


@cache
def _is_pointwise(op: str) -> bool:
    return op == "gather" or (op in OPS and OPS[op].scalar is not None and op not in VIEWS and op not in COMBINERS)


@dataclass(eq=False)
class Group:
    """Nodes that one kernel computes. `inner` runs at every point of the reduced operand, `members` at the results."""

    space: tuple[int, ...]
    members: list[Node] = field(default_factory=list)
    roots: list[Node] = field(default_factory=list)  # reductions or the contraction, or the block
    inner: list[Node] = field(default_factory=list)
    inner_space: tuple[int, ...] = ()
    size: int = 0  # how many nodes are computed for its members, themselves included

    @property
    def kind(self) -> str:
        if not self.roots:
            return "map"
        op = self.roots[0].op
        return "reduce" if op in COMBINERS else op

    def computes(self) -> list[Node]:
        return [*self.inner, *self.roots, *self.members]


class Fusion:
    """The groups of a graph. `stored` are the nodes that get memory; `forced` must, whatever else would be chosen."""

    def __init__(self, graph: Graph, forced: frozenset[Node] = frozenset()) -> None:
        self.graph, self.forced = graph, forced
        self.users: dict[Node, list[Node]] = {}
        for node in graph.nodes:
            for i in dict.fromkeys(node.inputs):
                self.users.setdefault(i, []).append(node)
        self.outputs = set(graph.outputs)
        self.turns = {t for node in graph.nodes if (t := turned(node)) is not None}
        self.groups: list[Group] = []
        self._placed = False  # whether every node has its home, or none for good
        self._leaves: dict[Node, list[tuple[Node, bool]]] = {}
        self.home: dict[Node, Group] = {}
        self.inlined: set[Node] = set()
        self._position: dict[Group, int] = {}
        self._depth: dict[Node, int] = {}
        self._size: dict[Node, int] = {}  # how many nodes are computed where this one is, views included
        for node in graph.nodes:
            self._visit(node)
        self._placed = True
        self._part_updates()
        self._merge_maps()
        self._delay_windows()
        self._advance_sums()
        self._merge_sums()
        self._absorb_maps()
        self._advance_sums()
        self.stored = self._stored()
        self.position = {g: k for k, g in enumerate(self.groups)}

    # --- placing

    def _visit(self, node: Node) -> None:
        if node.op in ("input", "constant", "item"):
            return
        depth = 1 + max((self._depth.get(i, 0) for i in node.inputs), default=0)
        size = self._size[node] = 1 + sum(self._size.get(i, 0) for i in dict.fromkeys(node.inputs))
        small = depth <= _DEPTH and size <= _NODES
        if node.op in VIEWS or node.op == "iota":
            if node in self.forced or node in self.outputs or not small:
                self._place(node)
            else:
                self._depth[node] = depth
        elif node.op in COMBINERS or node.op == "contract" or node.op in BLOCKS:
            turn = turned(node)
            if turn is not None and node.op == "contract" and turn not in self.home:
                self._place(turn)
            for i in node.inputs:
                if node.op not in COMBINERS and not (i is turn and i.inputs[0] in self.inlined):
                    self._store_operand(i)
            group = Group(squeezed(node), roots=[node], size=self._size.pop(node))
            if node.op in COMBINERS:
                group.inner_space = squeezed(node.inputs[0])
            self._append(group)
            self.home[node] = group
        elif is_pointwise(node):
            if node.op == "gather":
                self._store_operand(node.inputs[0])
            inline = self._is_inlined(node) or self._is_free(node) or (depth <= _AGAIN and self._is_cheap(node))
            inline = inline or self._is_turned(node)
            if node not in self.forced and small and inline:
                self.inlined.add(node)
                self._depth[node] = depth
            else:
                self._place(node)
        else:
            raise AssertionError(f"no rule for {node.op}")

    def _store_operand(self, node: Node) -> None:
        """Blocks and products read memory: what is under the views of an operand must have some.

        That is the first value that cannot be read through them, as a transposition whose axes are then made one.
        """
        extents = node.type.shape
        index: Index | None = tuple(counter(a, len(extents)) for a in range(len(extents)))
        while index is not None and self._is_view(node):
            (source,) = node.inputs
            if node.op == "reshape":
                place = flat(index, node.type.shape, len(extents))
                while source.op == "reshape" and self._is_view(source):
                    (source,) = source.inputs
                index = unflat(place, source.type.shape, extents) if self._is_view(source) else index
            else:
                index = through(node, index, len(extents))
            node = source
        if node not in self.home and node.op not in ("input", "item", "constant"):
            self._place(node)

    def _is_turned(self, node: Node) -> bool:
        """Whether these are rows that are gathered only to be turned, which is one copy."""
        users = self.users.get(node, [])
        if node.op != "gather" or len(users) != 1 or users[0] not in self.turns:
            return False
        readers = self.users[users[0]]
        alone = len(readers) == 1 or all(r.op == "windows" for r in readers)
        return alone and self.outputs.isdisjoint([node, *users])

    def _is_view(self, node: Node) -> bool:
        return node.op in VIEWS and node not in self.home

    def _is_inlined(self, node: Node) -> bool:
        """One reader, which has the element at hand: the same place of an elementwise op, or a reduction.

        The answer to a question may be read with its axes split, as the gradient of pooling asks it.
        """
        users = self.users.get(node, [])
        if len(users) != 1 or node in self.outputs:
            return False
        (user,) = users
        if user.op == "reshape" and node.op in _QUESTIONS:
            return split_axes(node.type.shape, user.type.shape) is not None and self._is_inlined(user)
        if user.op in COMBINERS:
            return True
        if not is_pointwise(user) or (user.op == "gather" and user.inputs[0] is node):
            return False
        return squeezed(user) == squeezed(node)

    def _is_free(self, node: Node) -> bool:
        """A little arithmetic on numbers that need no memory, such as a causal mask."""
        if node in self.outputs or node.op == "gather" or self._depth.get(node, 0) > 4:
            return False
        for i in node.inputs:
            while i.op in VIEWS and i not in self.home:
                i = i.inputs[0]
            uniform = i.op == "constant" and not i.type.shape
            if i.op != "iota" and not uniform and not (i in self.inlined and self._is_free(i)):
                return False
        return True

    def _is_cheap(self, node: Node) -> bool:
        """A little arithmetic on a value that has memory and on smaller ones: done again by each reader, never stored.

        Then x / 2, x - mean and (x - mean) * scale are all read as x. Where x is needed for nothing else, as a product
        before its bias is added, the result is stored in its place. Of two such values only what is too large for the
        caches is made again, and only for two readers: a pass that writes costs as much as two that read.
        """
        users = self.users.get(node, [])
        if node in self.outputs or len(users) < 2:
            return False
        wide = self._wide(node)
        if len(wide) == 2 and (len(users) > 2 or node.type.size * node.type.dtype.itemsize < _FAR):
            return False
        return 1 <= len(wide) <= 2 and all(len(self.users[x]) > 1 for x in wide)

    def _wide(self, node: Node) -> set[Node]:
        """The stored values of the node's own size that it is made from by cheap arithmetic; none if there is more."""
        found: set[Node] = set()
        for k, i in enumerate(node.inputs if node.op in _CHEAP else ()):
            small = i
            while small.op in VIEWS and small not in self.home:
                small = small.inputs[0]
            stored = small in self.home
            if small.type.size * 8 <= node.type.size and (stored or small.op in ("input", "constant")):
                continue
            made = {i} if i in self.home or (stored and i.op == "reshape") else self._wide(i)
            near = squeezed(i) == squeezed(node) and i.type.dtype.itemsize <= node.type.dtype.itemsize
            if not made or not near or (node.op == "divide" and k == 1):
                return set()
            found |= made
        return found

    def _append(self, group: Group) -> None:
        self._position[group] = len(self.groups)
        self.groups.append(group)

    def _place(self, node: Node) -> None:
        """Make the node a member of the last group that it depends on if it fits there, else of a new one."""
        self.inlined.discard(node)
        self._depth.pop(node, None)
        size = self._size.pop(node)
        leaves = self.leaves(node)
        last = max((self._position[self.home[n]] for n, _ in leaves), default=-1)
        group = self.groups[last] if last >= 0 else None
        fits = (
            group is not None
            and group.kind in ("map", "reduce", "contract")
            and group.space == squeezed(node)
            and group.size + size <= _NODES
            and all(aligned for n, aligned in leaves if self.home[n] is group)
            and node.op not in VIEWS
        )
        if group is None or not fits:
            group = Group(squeezed(node))
            self._append(group)
        group.members.append(node)
        group.size += size
        self.home[node] = group

    def leaves(self, root: Node) -> list[tuple[Node, bool]]:
        """The nodes with a home that `root` reads, and whether it reads them at its own place."""
        found = self._leaves.get(root)
        if found is None:
            found = list(self._read_by(root))
            if self._placed:
                self._leaves[root] = found
        return found

    def _read_by(self, root: Node) -> Iterator[tuple[Node, bool]]:
        seen: set[tuple[Node, bool]] = set()
        home, stack = self.home, self._operands(root, True)
        while stack:
            pair = stack.pop()
            if pair in seen:
                continue
            seen.add(pair)
            node, aligned = pair
            source = node.inputs[0] if node.op == "item" else node
            if source in home:
                yield source, aligned and source is node
            elif node.inputs:
                stack += self._operands(node, aligned)

    def _operands(self, node: Node, aligned: bool) -> list[tuple[Node, bool]]:
        if not aligned:
            return [(i, False) for i in node.inputs]
        op, shape = node.op, squeezed(node)
        same = op in ("reshape", "broadcast_to", "stop_gradient") if op in VIEWS else is_pointwise(node)
        found = [(i, same and len(i.types) == 1 and squeezed(i) == shape) for i in node.inputs]
        if op == "gather":
            found[0] = found[0][0], False
        return found

    # --- improving

    def _part_updates(self) -> None:
        """An optimiser's update leaves the sum that made its gradient, and becomes a sweep of its own.

        Only the product of two large matrices keeps it: the gradient is then never stored, and what the update reads
        comes from memory while the product is busy with arithmetic.
        """
        groups, self.groups = self.groups, []
        for group in groups:
            self.groups.append(group)
            if group.kind not in ("contract", "reduce") or sum(m in self.outputs for m in group.members) < 2:
                continue
            if not _is_large_product(group):
                sweep = Group(group.space, group.members, size=group.size)
                group.members = []
                self.groups.append(sweep)
                self.home.update(dict.fromkeys(sweep.members, sweep))
        self._position = {g: k for k, g in enumerate(self.groups)}

    def reads(self, group: Group) -> dict[Group, bool]:
        """The groups that a group reads, and whether only at its own place."""
        found: dict[Group, bool] = {}
        for node in group.computes():
            for leaf, aligned in self.leaves(node):
                home = self.home[leaf]
                if home is not group:
                    found[home] = found.get(home, True) and aligned
        return found

    def _merge_maps(self) -> None:
        """A map that the next map over the same elements reads becomes part of it, unless someone between needs it."""

        def fits(early: Group, late: Group) -> bool:
            return early.kind == late.kind == "map" and early.space == late.space

        def join(early: Group, late: Group) -> None:
            late.members[:0] = early.members

        self._join(fits, join)

    def _delay_windows(self) -> None:
        """Sums over short windows are taken by the map that needs them, if what they sum is needed then anyway."""
        last = {r: self._position[g] for g in self.groups for r in self.reads(g)}

        def fits(early: Group, late: Group) -> bool:
            short = early.kind == "reduce" and math.prod(early.inner_space) <= _WINDOW * math.prod(early.space)
            alike = late.kind == "map" and early.space == late.space and not early.inner
            return short and alike and all(last[r] >= self._position[late] for r in self.reads(early))

        def join(early: Group, late: Group) -> None:
            late.roots, late.inner_space = early.roots, early.inner_space
            late.members[:0] = early.members

        self._join(fits, join)

    def _absorb_maps(self) -> None:
        """A map whose results are reduced right away: the reduction does both in one pass."""

        def fits(early: Group, late: Group) -> bool:
            if early.kind != "map" or late.kind != "reduce" or late.inner or not early.space:
                return False
            plain = all(m.op not in VIEWS for m in early.members)
            return plain and early.space == late.inner_space and early.space != late.space

        def join(early: Group, late: Group) -> None:
            late.inner = early.members

        self._join(fits, join)

    def _advance_sums(self) -> None:
        """A product or a sum that is smaller than what it reads comes right after that, not where it is needed.

        So the gradient of a weight is taken while the values that it sums are near, and their memory is free for others
        afterwards. What the graph gives as results stays: it may lie in the memory of an input that is still read.
        """
        place: dict[Group, tuple[int, ...]] = {}
        for k, group in enumerate(self.groups):
            place[group] = (k,)
            made = group.computes()
            if group.kind in ("contract", "reduce") and not self.outputs.intersection(made):
                reads = [r for r in self.reads(group) if r in place]  # what gets memory later only is computed again
                read = [t.size for r in reads for m in r.computes() for t in m.types]
                if read and max(n.type.size for n in made) < max(read):
                    place[group] = (*max(place[r] for r in reads), -k)  # of several the one that is needed last first
        self.groups.sort(key=place.__getitem__)
        self._position = {g: k for k, g in enumerate(self.groups)}

    def _merge_sums(self) -> None:
        """Sums (or maxima) of the same elements that do not need one another are taken in one pass over memory."""
        reads = {g: self.reads(g) for g in self.groups if g.kind == "reduce"}
        alike: dict[tuple[tuple[int, ...], ...], list[Group]] = {}
        for late in [g for g in reads if not g.inner]:
            (root,) = late.roots
            key = (root.inputs[0].type.shape, root.params["axis"], late.space)
            last = max((self._position[r] for r in reads[late]), default=-1)
            early = next((g for g in alike.get(key, []) if self._position[g] > last and self._share(g, late)), None)
            if early is None:
                alike.setdefault(key, []).append(late)
                continue
            early.roots += late.roots
            early.members += late.members
            early.size += late.size
            self.home.update(dict.fromkeys(late.computes(), early))
            self.groups.remove(late)
            for g in reads:
                if late in reads[g]:
                    reads[g][early] = reads[g].pop(late)
        self._position = {g: k for k, g in enumerate(self.groups)}

    def _share(self, early: Group, late: Group) -> bool:
        """Whether both reduce something that has memory and is as large as what they reduce."""
        if len(early.roots) >= _SUMS:
            return False
        first, second = (
            {n for r in g.roots for n in self._read(r.inputs[0], early.inner_space)} for g in (early, late)
        )
        return not first.isdisjoint(second)

    def _read(self, node: Node, space: tuple[int, ...]) -> set[Node]:
        """What has memory, and at least as many elements as `space`, among what a value is computed from."""
        found: set[Node] = set()
        seen, stack = {node}, [node]
        while stack:
            one = stack.pop()
            if one in self.home or one.op in ("input", "constant", "item"):
                if one.types[0].size >= math.prod(space):
                    found.add(one)
                continue
            stack += [i for i in one.inputs if i not in seen]
            seen.update(one.inputs)
        return found

    def _join(self, fits: Callable[[Group, Group], bool], join: Callable[[Group, Group], None]) -> None:
        reads = {g: self.reads(g) for g in self.groups}
        readers: dict[Group, list[Group]] = {}
        for g in self.groups:
            for r in reads[g]:
                readers.setdefault(r, []).append(g)
        for early in list(self.groups):
            users = sorted(readers.get(early, []), key=self._position.__getitem__)
            users = [u for u in users if self._position[u] > self._position[early]]  # others compute it themselves
            if not users:
                continue
            late = users[0]  # the first reader: nobody between needs it
            if early.size + late.size > _NODES or not fits(early, late) or not self._aligned(early, late):
                continue
            join(early, late)
            late.size += early.size
            for node in early.computes():
                self.home[node] = late
            self.groups.remove(early)
            for g in reads.pop(early):
                readers[g] = [late if r is early else r for r in readers[g]]
            readers[late] = list(dict.fromkeys([*readers.get(late, []), *(r for r in users if r is not late)]))
            reads[late] = self.reads(late)

    def _aligned(self, early: Group, late: Group) -> bool:
        """Whether `late` reads `early` only at its own place (of the full operand, for a reduction)."""
        if late.kind == "reduce":
            own = set(early.members)
            for root in late.roots:
                if any(n in own and not aligned for n, aligned in self.leaves_of_operand(root)):
                    return False
            return not any(n in own for m in late.members for n, _ in self.leaves(m))
        return self.reads(late).get(early, False)

    def leaves_of_operand(self, root: Node) -> list[tuple[Node, bool]]:
        """As `leaves`, for what a reduction combines."""
        (operand,) = root.inputs
        return [(operand, True)] if operand in self.home else self.leaves(operand)

    def _stored(self) -> set[Node]:
        stored = {o for o in self.outputs if o in self.home}
        for group in self.groups:
            stored.update(n for n in group.roots if group.kind not in ("reduce", "contract"))
            for node in group.computes():
                for leaf, _ in self.leaves(node):
                    home = self.home[leaf]
                    if home is not group or (leaf in home.inner and node in home.members):
                        stored.add(leaf)
        return stored


def _is_large_product(group: Group) -> bool:
    """Whether the group is a plain product of two matrices with a large result."""
    (root,) = group.roots
    if root.op != "contract" or len(group.space) != 2 or root.type.ndim != 2:
        return False
    return all(i.type.ndim == 2 for i in root.inputs) and root.type.size >= _LARGE and min(group.space) >= _WIDE
