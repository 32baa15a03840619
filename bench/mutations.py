"""Small wrong changes of a Python module, as a careless hand would make them: each is one node of its syntax tree.

Not changed is what no test should pin: docstrings, annotations, decorators, assertions, the words of an error, the
indent of JSON, and `strict=` of a zip, which is an assertion too.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

Place = tuple[ast.AST, str, int | None]
"""Where a node hangs: its parent, the parent's field, and the position if that field is a list."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
MERGED = (ast.Dict, ast.DictComp)
"""Of two dictionaries the right one wins."""
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
WORDS = ("warn", "info", "debug", "warning", "error")


@dataclass(frozen=True)
class Mutation:
    """One change: `line` to `end` is the statement's head, `text` the first line of the changed node."""

    file: str
    line: int
    head: tuple[int, int]
    text: str
    change: str
    always: bool
    """Whether it is at work when the module is imported, or behind a cache: no test's own lines show who meets it."""
    node: int
    choice: int

    @property
    def module(self) -> str:
        """The dotted name of the module that is changed."""
        return self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def source(self, text: str) -> str:
        """The module with this change."""
        tree = ast.parse(text)
        parent, field, position = _places(tree)[self.node]
        new = _changes(_at(parent, field, position))[self.choice]
        if position is None:
            setattr(parent, field, new)
        else:
            getattr(parent, field)[position] = new
        return ast.unparse(ast.fix_missing_locations(tree))


def mutations(file: str, text: str) -> list[Mutation]:
    """All changes of a module, in the order of its nodes."""
    tree, lines, found = ast.parse(text), text.splitlines(), []
    around = _surroundings(tree)
    for number, (parent, field, position) in enumerate(_places(tree)):
        node = _at(parent, field, position)
        # A comprehension's `for` has no line of its own.
        line = getattr(node.target if isinstance(node, ast.comprehension) else node, "lineno", 0)
        for choice, new in enumerate(_changes(node)):
            change = f"{_shown(node)} -> {_shown(new)}"
            head, always = around[node]
            found.append(Mutation(file, line, head, lines[line - 1].strip(), change, always, number, choice))
    return found


def _shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split("\n")[0][:100]


def _at(parent: ast.AST, field: str, position: int | None) -> ast.AST:
    value = getattr(parent, field)
    node: ast.AST = value if position is None else value[position]
    return node


def _places(tree: ast.AST) -> list[Place]:
    """Every node that may be changed, with its place, from the top down."""
    found: list[Place] = []
    for field, value in ast.iter_fields(tree):
        if _skipped(tree, field):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for position, child in children:
            if isinstance(child, ast.AST) and not _untouched(child):
                found.append((tree, field, position))
                found.extend(_places(child))
    return found


def _skipped(node: ast.AST, field: str) -> bool:
    """Fields that hold types, decorators or words."""
    if field in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
        return True
    return isinstance(node, ast.Raise) and field in ("exc", "cause")


def _untouched(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant()) | ast.keyword(arg="strict" | "indent"):
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")) | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))):
            return name in WORDS
    return False


def _changes(node: ast.AST) -> list[ast.AST]:
    return list(_changed_statement(node) if isinstance(node, ast.stmt) else _changed_expression(node))


def _changed_statement(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and not value.value):
            yield ast.copy_location(ast.Return(ast.Constant(None)), node)
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue():
            yield ast.copy_location(ast.Pass(), node)
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call() | ast.NamedExpr() as test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.copy_location(ast.Pass(), node)


def _changed_expression(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[operation]):
            yield _with(node, ops=[COMPARISONS[type(operation)]()])
        case ast.BinOp(op=ast.BitOr()) if isinstance(node.left, MERGED) or isinstance(node.right, MERGED):
            yield _with(node, left=node.right, right=node.left)
        case ast.BinOp(op=operator) if type(operator) in OPERATORS and not _text(node):
            yield _with(node, op=OPERATORS[type(operator)]())
        case ast.BoolOp(op=joined):
            yield _with(node, op=ast.Or() if isinstance(joined, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.comprehension(ifs=[_, *rest]):
            yield _with(node, ifs=rest)
        case _:
            yield from _changed_value(node)


def _changed_value(node: ast.AST) -> Iterator[ast.AST]:
    """Constants and what functions are called with."""
    match node:
        case ast.Constant(value=bool(value)):
            yield _with(node, value=not value)
        case ast.Constant(value=int(number) | float(number)):
            yield from (_with(node, value=number + 1), _with(node, value=number - 1))
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            yield _with(node, func=ast.Name(FUNCTIONS[name], ast.Load()))
        case ast.Call(args=[first, second, *rest]) if not any(isinstance(a, ast.Starred) for a in node.args):
            yield _with(node, args=[second, first, *rest])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _text(node: ast.BinOp) -> bool:
    """Strings have no other operator."""
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def _surroundings(tree: ast.AST) -> dict[ast.AST, tuple[tuple[int, int], bool]]:
    """For each node the lines of its statement's head, and whether its code runs outside of any test."""
    found: dict[ast.AST, tuple[tuple[int, int], bool]] = {}

    def visit(node: ast.AST, head: tuple[int, int], always: bool) -> None:
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            body = getattr(node, "body", None)
            first = getattr(node, "lineno", None) or node.pattern.lineno  # type: ignore[union-attr]
            last = body[0].lineno - 1 if body else getattr(node, "end_lineno", first)
            head = (first, max(first, last))
        found[node] = (head, always)
        inner = always
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = any("cache" in ast.unparse(decorator) for decorator in node.decorator_list)
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, head, inner if field == "body" else always)

    visit(tree, (1, 1), True)
    return found
