"""The rooms of the package: what may know what (docs/design.md says it, this holds it)."""

import ast
import collections
import graphlib
import pathlib
import re

import relu_dynamics

PACKAGE = pathlib.Path(relu_dynamics.__file__).parent
ROOT = PACKAGE.parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: pathlib.Path) -> list[tuple[str, str]]:
    """(module, name) of what a file imports from the package."""
    return [
        (node.module, alias.name)
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("relu_dynamics")
        for alias in node.names
    ]


def file_of(module: str, name: str) -> pathlib.Path:
    """The file that an imported name stands in, or the face of its room."""
    parts = module.split(".")[1:]
    for candidate in (
        PACKAGE.joinpath(*parts, f"{name}.py"),
        PACKAGE.joinpath(*parts, name, "__init__.py"),
        PACKAGE.joinpath(*parts).with_suffix(".py"),
    ):
        if candidate.exists():
            return candidate
    return PACKAGE.joinpath(*parts, "__init__.py")


def order() -> dict[str, int]:
    """The rooms as docs/design.md lists them, from the ground up."""
    page = (ROOT / "docs" / "design.md").read_text()
    table = page[page.index("| room | job |") :].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {room: i for i, row in enumerate(rows) for room in re.findall(r"`(\w+)`", row)}


def test_every_room_is_in_the_table_and_knows_only_rooms_above_it():
    known = order()
    rooms = {room_of(path) for path in TREES} - {"__init__"}
    assert set(known) == rooms
    wrong = {
        f"{path.relative_to(PACKAGE)} knows {other}"
        for path in TREES
        if room_of(path) != "__init__"
        for module, name in imported(path)
        for other in [room_of(file_of(module, name))]
        if other != room_of(path) and known[other] > known[room_of(path)]
    }
    assert not wrong


def test_no_file_imports_itself_around_a_corner():
    arrows = collections.defaultdict(set)
    for path in TREES:
        for module, name in imported(path):
            arrows[path].add(file_of(module, name))
        if path.name != "__init__.py":  # whoever imports a file runs the faces above it first
            arrows[path] -= {path.parent / "__init__.py"}
    graphlib.TopologicalSorter(arrows).prepare()


JAX_LOOPS = {"scan", "fori_loop", "while_loop", "scan_stretch", "lanes_last"}
PYTHON_LOOPS = ast.For | ast.While | ast.ListComp | ast.GeneratorExp
UPDATES = {"train_step", "parameter_updates", "apply_updates"}


def names(node: ast.AST) -> set[str]:
    """The last parts of all names that are read within."""
    found = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return {*found, *(n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute))}


def calls(node: ast.AST) -> set[str]:
    """The names of all functions that are called within."""
    return {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}


def loops(function: ast.FunctionDef) -> list[ast.AST]:
    """What may run again and again: the function's body if it calls a loop of JAX, else its
    Python loops."""
    body = ast.Module(function.body, [])
    if JAX_LOOPS & {name.split(".")[-1] for name in calls(body)}:
        return [body]
    return [node for node in ast.walk(body) if isinstance(node, PYTHON_LOOPS)]


def test_one_function_loops_over_training_steps():
    """Whoever trains hands a step to `scan_steps`, or a user's own step to `replay`: no other
    function calls a step in a loop, be it one of JAX or of Python, nor a loop of JAX beside a
    step."""
    files = [*TREES, *sorted((ROOT / "experiments").rglob("*.py"))]
    trees = {path: TREES.get(path) or ast.parse(path.read_text()) for path in files}
    looping = [
        f"{path.name}: {node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        if "stretch" in calls(node)
        or any("step" in calls(loop) or names(loop) & UPDATES for loop in loops(node))
    ]
    assert looping == ["training.py: scan_steps", "replay.py: replay"]


def test_private_names_stay_in_their_file():
    wrong = [
        f"{path.relative_to(PACKAGE)}: {module}.{name}"
        for path in TREES
        for module, name in imported(path)
        if name.startswith("_")
        or module.split(".")[-1].startswith("_")
        and room_of(path) not in module
    ]
    wrong += [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if re.match(r"_[a-z]", node.attr) and node.attr not in ("_replace", "_fields", "_asdict")
        if node.value.id in {name for _, name in imported(path)}
    ]
    assert not wrong
