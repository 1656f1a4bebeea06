"""A worksheet as a graph: every quantity is a node, every claim names the node it is about.

Givens and params are inputs of the graph; a definition is a node that carries the author's own name; a derivative is
what reverse mode makes of the nodes; a `step` replaces each param by the node `w - lr dE/dw`, and everything defined in
terms of it by the same formula of the new values; `repeat` is a loop (`scan`) over such steps. So gradients,
explanation and execution work on a worksheet as on any other program.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from backlit import ops
from backlit.audit.descent import Reading, descend
from backlit.audit.syntax import (
    Array,
    Binary,
    Block,
    Call,
    Chain,
    Derivative,
    Expr,
    Given,
    Name,
    Number,
    Repeat,
    Statement,
    Step,
    Unary,
    WorksheetError,
)
from backlit.autodiff import Reverse, reverse, zeros_if_none
from backlit.errors import Error
from backlit.ir import Graph, Node, Type, reachable, substitute
from backlit.tracing import Traced, input_node, lift, type_of

Value: TypeAlias = Any

FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "sigmoid": ops.sigmoid,
    "σ": ops.sigmoid,
    "tanh": ops.tanh,
    "relu": ops.relu,
    "softplus": ops.softplus,
    "softmax": ops.softmax,
    "exp": ops.exp,
    "log": ops.log,
    "ln": ops.log,
    "sqrt": ops.sqrt,
    "abs": ops.abs,
    "sum": ops.sum,
    "mean": ops.mean,
    "max": ops.max,
    "T": ops.transpose,
}
CONSTANTS = {"e": math.e, "pi": math.pi, "π": math.pi}
_UNROLLED = 3  # a `repeat` of at most this many steps is written out, a longer one is a loop
MAX_SIZE = 10_000  # elements of one array
MAX_TOTAL = 3_000_000  # elements of all arrays together
MAX_NODES = 30_000  # operations that the statements of one sheet may come to
MAX_STEPS = 60  # statements `step`
MAX_LOOPS = 20  # statements `repeat`
MAX_LOOP_WORK = 20_000_000  # operations of all loops together
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


@dataclass(frozen=True, slots=True)
class Claim:
    """One number, or one expression with numbers put in, that the author says is equal to a quantity.

    `target` is the node of the quantity as it should be. `formula` is the author's own expression for it on the same
    line, where there is one. `part_node` is the node of a part that is an expression. `epoch` counts the steps taken
    before the line. `printed` is the claim as written.
    """

    line: int
    column: int
    quantity: str
    part: Expr
    part_node: Node | None
    target: Node
    formula: Expr | None
    epoch: int
    printed: str


@dataclass(frozen=True, slots=True)
class Update:
    """A step of gradient descent: the params before it and after it, and the gradients used."""

    line: int
    loss: Node
    rate: float
    before: dict[str, Node]
    after: dict[str, Node]
    gradients: dict[str, Node]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One worksheet. `inputs` are the nodes of givens and params with their numbers; `epochs[k]` maps the names to
    their nodes after k statements `step` or `repeat`; `text` are the lines, the first of them line `line` of the file.
    """

    line: int
    text: tuple[str, ...]
    inputs: dict[Node, np.ndarray[Any, Any]]
    trainable: frozenset[str]
    epochs: tuple[dict[str, Node], ...]
    definitions: dict[str, Expr]
    updates: tuple[Update, ...]
    claims: tuple[Claim, ...]

    def graph(self, *outputs: Node) -> Graph:
        """The graph from the sheet's numbers to these nodes."""
        return Graph(tuple(self.inputs), outputs, "worksheet")


def read(block: Block, reading: Reading | None = None) -> Sheet:
    """The worksheet in a block. Raises WorksheetError with line, column and what was expected."""
    from backlit.audit.grammar import parse_line  # the parser library is loaded when there is something to parse

    reader = _Reader(reading or Reading(), repeats=any(t.split()[:1] == ["repeat"] for t in block.lines))
    for offset, text in enumerate(block.lines):
        try:
            statement = parse_line(text, reader.is_quantity)
            if statement is not None:
                reader.take(statement, block.line + offset, text)
        except WorksheetError as e:
            raise e.at(block.line + offset, text) from None
        except Error as e:  # an op refused: shapes that do not fit, a derivative of what is no number
            raise WorksheetError(e.what, column=1, fix=e.fix).at(block.line + offset, text) from None
    return reader.finish(block)


def expression(expr: Expr, look_up: Callable[[Name | Derivative], Value]) -> Value:
    """The value of an expression, made of ops; `look_up` gives the quantities. Depth is bounded by the parser."""
    match expr:
        case Number():
            return np.float64(expr.value)
        case Name() | Derivative():
            return look_up(expr)
        case Array(items=items):
            values = [expression(i, look_up) for i in items]
            return ops.stack(values) if values else np.zeros(0)
        case Unary(operand=operand):
            return -_value(expression(operand, look_up))
        case Binary("^", Name("e", primed=False), power) if look_up(expr.left) is CONSTANTS["e"]:  # type: ignore[arg-type]
            return ops.exp(_value(expression(power, look_up)))
        case Binary("^", base, Number() as power):
            return ops.pow(_value(expression(base, look_up)), power.value)
        case Binary(op, left, right):
            found = _BINARY[op](_value(expression(left, look_up)), _value(expression(right, look_up)))
            if type_of(found).size > MAX_SIZE:
                raise WorksheetError(f"an array of the shape {type_of(found).shape} is too large", column=expr.column)
            return found
        case Call(function=name, arguments=arguments):
            return _call(name, [_value(expression(a, look_up)) for a in arguments], expr.column)


_BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "+": ops.add,
    "-": ops.subtract,
    "*": ops.multiply,
    "/": ops.divide,
    "^": ops.pow,
    "@": ops.matmul,
}


def _value(value: Value) -> Value:
    """A float64 value: a Python number (e, pi) becomes one."""
    return np.float64(value) if isinstance(value, float) else value


def _call(name: str, arguments: Sequence[Value], column: int) -> Value:
    if name == "max" and len(arguments) > 1:
        found = arguments[0]
        for other in arguments[1:]:
            found = ops.maximum(found, other)
        return found
    if name not in FUNCTIONS:
        raise WorksheetError(f"there is no function {name!r}", column=column, fix=f"there are {', '.join(FUNCTIONS)}")
    if len(arguments) != 1:
        raise WorksheetError(f"{name} takes one argument, not {len(arguments)}", column=column)
    return FUNCTIONS[name](arguments[0])


def text_of(expr: Expr, line: str) -> str:
    """The claim as it was printed: a number's own text, else the author's expression between its two equals signs."""
    if isinstance(expr, Number):
        return expr.text
    starts = [0, *(i + 1 for i, c in enumerate(line) if c == "=")]
    start = max(s for s in starts if s <= max(first_column(expr) - 1, 0))
    return line[start:].split("=")[0].split("#")[0].strip()


def first_column(expr: Expr) -> int:
    """Where the expression starts on its line, from 1."""
    match expr:
        case Binary(left=left):
            return first_column(left)
        case _:
            return expr.column


@dataclass
class _Reader:
    """Takes the statements of a sheet in order."""

    reading: Reading
    repeats: bool  # whether the sheet has a `repeat`
    names: dict[str, Node] = field(default_factory=dict)
    inputs: dict[Node, np.ndarray[Any, Any]] = field(default_factory=dict)
    trainable: list[str] = field(default_factory=list)
    definitions: dict[str, Expr] = field(default_factory=dict)
    epochs: list[dict[str, Node]] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    waiting: list[tuple[int, str]] = field(default_factory=list)  # claims about w': their place, and w
    last_step: Step | None = None
    slopes: dict[Node, Reverse] = field(default_factory=dict)
    loops: int = 0
    loop_work: int = 0
    first_serial: int = field(default_factory=lambda: _serial())

    def is_quantity(self, name: str) -> bool:
        return name in self.names

    # --- looking up ---

    def find(self, name: Name) -> Node:
        if name.name in self.names:
            return self.names[name.name]
        near = difflib.get_close_matches(name.name, self.names, 2)
        raise WorksheetError(
            f"{name.name!r} is not defined above",
            column=name.column,
            fix=f"did you mean {' or '.join(near)}?" if near else "say what it is with given, param or a formula",
        )

    def look_up(self, name: Name | Derivative) -> Value:
        if isinstance(name, Derivative):
            return self.slope(name)
        if name.primed:
            raise WorksheetError(f"{name.name}' has no value yet", column=name.column, fix="use it after the step")
        if name.name in self.names:
            return Traced(self.names[name.name])
        base = name.name.rstrip("⁰¹²³⁴⁵⁶⁷⁸⁹")
        if base != name.name and (base in self.names or base in CONSTANTS):  # x² where no x² was defined: a power
            power = float(name.name[len(base) :].translate(_SUPERSCRIPT))
            return ops.pow(_value(self.look_up(replace(name, name=base))), power)
        return CONSTANTS[name.name] if name.name in CONSTANTS else Traced(self.find(name))

    def slope(self, d: Derivative) -> Value:
        of, by = self.find(Name(d.of, False, d.column + 1)), self.find(Name(d.by, False, d.column + len(d.of) + 3))
        if of.type.shape:
            raise WorksheetError(
                f"{d.of} has the shape {of.type.shape}: a derivative is taken of one number", column=d.column
            )
        if of not in self.slopes:  # one pass gives the derivatives by everything
            self.slopes[of] = reverse([of], [lift(np.float64(1.0))], list(self.names.values()))
        return zeros_if_none(self.slopes[of].arriving.get(by), by)

    # --- statements ---

    def take(self, statement: Statement, line: int, text: str) -> None:
        match statement:
            case Given():
                self.give(statement)
            case Chain():
                self.chain(statement, line, text)
            case Step():
                self.step(statement, line)
            case Repeat():
                self.repeat(statement, line)
        if _serial() - self.first_serial > MAX_NODES:
            raise WorksheetError("the sheet comes to too many operations", column=1, fix="split it into several sheets")

    def define(self, name: Name, node: Node) -> None:
        if name.name in self.names:
            raise WorksheetError(f"{name.name!r} is defined already", column=name.column)
        self.names[name.name] = node

    def give(self, given: Given) -> None:
        for name, expr in given.values:
            value = _numbers(expr)
            node = input_node(Type(value.dtype, value.shape), name.name)
            self.define(name, node)
            self.inputs[node] = value
            if given.trainable:
                self.trainable.append(name.name)

    def chain(self, chain: Chain, line: int, text: str) -> None:
        left, parts = chain.left, chain.parts
        formula = next((p for p in parts if not is_number(p)), None)
        if isinstance(left, Name) and not left.primed and left.name not in self.names:
            if formula is None or is_number(parts[0]):
                raise WorksheetError(
                    f"{left.name!r} is not defined above",
                    column=left.column,
                    fix=f"write `given {left.name} = ...` for a number that is given, or `{left.name} = formula`",
                )
            self.define(left, self.named(expression(parts[0], self.look_up), left.name))
            self.definitions[left.name] = parts[0]
            formula, parts = parts[0], parts[1:]
        if isinstance(left, Name) and left.primed:
            if left.name not in self.trainable:
                raise WorksheetError(f"{left.name} is no param: only params change in a step", column=left.column)
            target = self.names[left.name]  # until the step says what it becomes
            self.waiting += [(len(self.claims) + i, left.name) for i in range(len(parts))]
        else:
            target = self.find(left) if isinstance(left, Name) else lift(self.slope(left)).node
        quantity = left.name + ("'" if isinstance(left, Name) and left.primed else "")
        for part in parts:
            node = None if is_number(part) else lift(_value(expression(part, self.look_up))).node
            place, shown = first_column(part), text_of(part, text)
            self.claims.append(Claim(line, place, quantity, part, node, target, formula, len(self.epochs), shown))

    def named(self, value: Value, name: str) -> Node:
        node = lift(_value(value)).node
        if node.op == "input" or node in self.names.values():  # another name for the same thing: a node of its own
            node = lift(ops.reshape(Traced(node), node.type.shape)).node
        return replace(node, name=name)

    # --- steps ---

    def moving(self, step: Step) -> dict[str, Node]:
        """The quantities that a step changes."""
        names = [o.name for o in step.on] or list(self.trainable)
        if self.reading.bias == "trained":
            names += [n for n in self.names if n.startswith("b") and n not in names and self.names[n].op == "input"]
        if self.reading.bias == "held":
            names = [n for n in names if not n.startswith("b")]
        return {n: self.names[n] for n in names}

    def step(self, step: Step, line: int) -> None:
        loss = self.find(step.loss)
        if loss.type.shape:
            raise WorksheetError(f"the loss {step.loss.name} is no single number", column=step.loss.column)
        for name in step.on:
            if name.name not in self.trainable:
                raise WorksheetError(f"{name.name!r} is no param", column=name.column, fix="declare it with param")
        if len(self.updates) >= MAX_STEPS:
            raise WorksheetError(f"there are more than {MAX_STEPS} steps", column=1, fix="use `repeat`")
        before = self.moving(step)
        if not before and self.reading == Reading():
            raise WorksheetError("there is no param to change", column=1, fix="declare the weights with param")
        gradients, after = descend(loss, before, step.rate, self.reading)
        after = {n: self.named(Traced(w), n) for n, w in after.items()}
        for place, param in self.waiting:
            self.claims[place] = replace(self.claims[place], target=after.get(param, self.names[param]))
        self.waiting.clear()
        self.updates.append(Update(line, loss, step.rate, before, after, gradients))
        self.move_on(before, after)
        first, self.last_step = self.last_step is None, step
        if first and not self.repeats:
            for _ in range(self.reading.more_steps):
                self.step(step, line)

    def move_on(self, before: dict[str, Node], after: dict[str, Node]) -> None:
        """From here on every name means its formula at the new params."""
        self.epochs.append(dict(self.names))
        moved = {w: after[n] for n, w in before.items()}
        nodes = substitute(list(self.names.values()), moved)
        self.names = dict(zip(self.names, nodes, strict=True))

    def repeat(self, repeat: Repeat, line: int) -> None:
        if self.last_step is None:
            raise WorksheetError("there is no step to repeat", column=1, fix="write `step E, lr = 0.5` first")
        step, count = self.last_step, max(0, repeat.count + self.reading.more_steps)
        self.loops += 1
        if self.loops > MAX_LOOPS:
            raise WorksheetError(f"there are more than {MAX_LOOPS} statements `repeat`", column=1)
        if count <= _UNROLLED:
            for _ in range(count):
                self.step(step, line)
            return
        loss = self.find(step.loss)
        before = self.moving(step)

        def once(weights: tuple[Traced, ...], _: None) -> tuple[tuple[Value, ...], None]:
            inside = dict(zip(before, (t.node for t in weights), strict=True))
            (now,) = substitute([loss], dict(zip(before.values(), inside.values(), strict=True)))
            after = descend(now, inside, step.rate, self.reading)[1]
            return tuple(Traced(w) for w in after.values()), None

        per_step = sum(n.types[0].size for n in reachable([loss]))
        self.loop_work += 4 * count * per_step  # the way back costs about three times the way there
        if self.loop_work > MAX_LOOP_WORK:
            raise WorksheetError(
                f"{count:,} steps of some {4 * per_step:,} operations each take too long",
                column=1,
                fix=f"the limit is {MAX_LOOP_WORK:,} operations in a sheet",
            )
        last, _ = ops.scan(once, tuple(Traced(w) for w in before.values()), length=count)
        after = {n: self.named(w, n) for n, w in zip(before, last, strict=True)}
        self.move_on(before, after)

    def finish(self, block: Block) -> Sheet:
        for place, name in self.waiting:
            claim = self.claims[place]
            if claim.formula is None:
                raise WorksheetError(
                    f"{name}' is claimed, but no step follows",
                    claim.line,
                    claim.column,
                    block.lines[claim.line - block.line],
                    fix="add `step E, lr = ...`",
                )
            target = lift(expression(claim.formula, self.look_up)).node
            self.claims[place] = replace(claim, target=target)
        whole = reachable([n for names in (*self.epochs, self.names) for n in names.values()])
        if sum(t.size for n in whole for t in n.types) > MAX_TOTAL:
            raise WorksheetError("the arrays of this sheet are too large together", block.line, 1, block.lines[0])
        return Sheet(
            block.line,
            block.lines,
            self.inputs,
            frozenset(self.trainable),
            (*self.epochs, dict(self.names)),
            self.definitions,
            tuple(self.updates),
            tuple(self.claims),
        )


def _serial() -> int:
    """The number of nodes made so far."""
    return lift(np.float64(0.0)).node.serial


def is_number(expr: Expr) -> bool:
    """Whether the expression is a printed number, or an array of printed numbers."""
    return isinstance(expr, Number) or (isinstance(expr, Array) and all(is_number(i) for i in expr.items))


def _numbers(expr: Expr) -> np.ndarray[Any, Any]:
    """The number or array of a given. Constant formulas (`1/3`, `e^2`) are computed."""

    def constant(name: Name | Derivative) -> Value:
        if isinstance(name, Name) and name.name in CONSTANTS and not name.primed:
            return CONSTANTS[name.name]
        raise WorksheetError(
            "a given is a number or an array of numbers", column=name.column, fix="define formulas without `given`"
        )

    try:
        return np.asarray(expression(expr, constant), np.float64)
    except ValueError:
        raise WorksheetError("the rows of the array differ in length", column=first_column(expr)) from None
