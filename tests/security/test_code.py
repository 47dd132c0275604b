# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Read off the source: nothing loads pickles, and the code that travels with a checkpoint only computes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from configuration_concept.configuration_concept import CODE_FILES, export_code

ROOT = Path(__file__).parents[2]
PACKAGES = ("configuration_concept", "modeling_concept", "training_concept", "evaluation_concept", "benchmarks")
TRAVELLING = [ROOT / package / f"{stem}.py" for package, stems in CODE_FILES.items() for stem in stems]
SOURCES = sorted([*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])

# Modules that run code out of data when they load.
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
# Calls that run code out of data, with the keyword and value that forbids it, if there is one.
LOADING = {
    "torch.load": ("weights_only", True),
    "torch.hub.load": None,
    "torch.jit.load": None,
    "torch.package.PackageImporter": None,
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "pd.read_pickle": None,
    "pandas.read_pickle": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "eval": None,
    "exec": None,
    "compile": None,
    "__import__": None,
    "os.system": None,
    "os.popen": None,
}
# What travels imports at its head; what else it may use lies in a `try`, or in the branch or function that needs it.
ALLOWED_IMPORTS = {
    *("torch", "transformers", "huggingface_hub", "collections", "typing", "dataclasses", "math", "re", "itertools"),
    *("contextlib", "concurrent"),
}
# Types alone, which do nothing.
TYPES = {"os": {"PathLike"}}
OPTIONAL_IMPORTS = {"liger_kernel", "triton", "configuration_concept"}
HOOK = "configuration_concept.py"
HOOK_IMPORTS = {"json", "os", "pathlib", "shutil"}
# Functions, and methods or functions of modules, that read, write, connect, start processes or run text as code.
BUILTINS = {"open", "eval", "exec", "compile", "__import__", "input", "breakpoint"}
ATTRIBUTES = {
    *(
        "read_text",
        "write_text",
        "read_bytes",
        "write_bytes",
        "unlink",
        "mkdir",
        "rmdir",
        "rename",
        "copyfile",
        "rmtree",
    ),
    *("system", "popen", "fork", "urlopen", "socket", "hf_hub_download", "snapshot_download", "load_file"),
    *("import_module", "load_library", "cpp_extension", "environ"),
}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """The first parts of the names of absolute imports below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if not {alias.name for alias in node.names} <= TYPES.get(module, set()):
                yield module.partition(".")[0]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls below `tree`, by what is called as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def forbids(call: ast.Call, keyword: str, value: bool) -> bool:
    return any(given.arg == keyword and ast.unparse(given.value) == str(value) for given in call.keywords)


def loads_code(tree: ast.AST) -> list[str]:
    """What below `tree` may run code that comes from data."""
    found = [name for name in imported(tree) if name in PICKLING]
    for name, call in calls(tree):
        if name in LOADING and (LOADING[name] is None or not forbids(call, *LOADING[name])):
            found.append(ast.unparse(call))
    found += [
        ast.unparse(call)
        for _, call in calls(tree)
        if any(given.arg == "shell" and ast.unparse(given.value) != "False" for given in call.keywords)
    ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_out_of_data(path):
    assert loads_code(parse(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x')",
        "np.load('x', allow_pickle=flag)",
        "yaml.load(file, Loader=yaml.Loader)",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_the_walk_sees_what_it_looks_for(source):
    assert loads_code(ast.parse(source))


@pytest.mark.parametrize("source", ["torch.load('x', weights_only=True)", "np.load('x', allow_pickle=False)"])
def test_the_walk_lets_pass_what_is_safe(source):
    assert not loads_code(ast.parse(source))


def head(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run when a module is imported, without those of a `try`."""
    return [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_what_travels_imports_torch_and_transformers_only(path):
    tree = parse(path)
    allowed = ALLOWED_IMPORTS | (HOOK_IMPORTS if path.name == HOOK else set())
    assert {name for node in head(tree) for name in imported(node)} <= allowed
    assert set(imported(tree)) <= allowed | OPTIONAL_IMPORTS


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_what_travels_reads_and_writes_nothing_but_its_own_copy(path):
    tree = parse(path)
    hooks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == export_code.__name__]
    assert len(hooks) == (path.name == HOOK)
    in_hook = {id(node) for hook in hooks for node in ast.walk(hook)}
    outside = [node for node in ast.walk(tree) if id(node) not in in_hook]
    done = [node.id for node in outside if isinstance(node, ast.Name) and node.id in BUILTINS]
    done += [ast.unparse(node) for node in outside if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES]
    assert done == []


def at_import(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported, those of its branches too."""
    for node in statements:
        if isinstance(node, ast.Try | ast.If):
            yield from at_import([*node.body, *node.orelse])
        else:
            yield node


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_what_travels_only_defines_and_registers_when_it_is_imported(path):
    defining = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)
    others = [node for node in at_import(parse(path).body) if not isinstance(node, defining)]
    done = [node.value for node in others if not isinstance(getattr(node, "value", None), ast.Constant)]
    assert all(isinstance(call, ast.Call) for call in done)
    assert {ast.unparse(call.func).rpartition(".")[2] for call in done} <= {"register", "register_autograd"}


def test_what_travels_is_small():
    sizes = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in TRAVELLING}
    assert all(size < 900 for size in sizes.values()), sizes
    assert sum(sizes.values()) < 6000
