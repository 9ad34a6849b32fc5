"""The stub says of every class and call what the module has."""

import ast
import inspect
import os

import numpy as np
import pytest

from embedrock import Optimizer, Store, TableSchema, _embedrock

STUB = os.path.join(os.path.dirname(_embedrock.__file__), "_embedrock.pyi")
with open(STUB, encoding="utf-8") as file:
    TREE = ast.parse(file.read())

CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}


SETTINGS = {
    "_Options": lambda path, given: Store(path, **given),
    "_Learning": lambda path, given: Store(path).create_table(TableSchema("t", 1)).apply_gradients(NO_KEYS, NO_ROWS, **given),
    "_OptimizerSettings": lambda path, given: Optimizer.sgd(0.1, **given),
    "_SchemaSettings": lambda path, given: TableSchema("t", 1, **given),
}
NO_KEYS, NO_ROWS = np.zeros(0, np.uint64), np.zeros((0, 1), np.float32)


def stubbed(node, method):
    """Name, kind and whether there is a default, of each parameter."""
    own = node.args
    positional = own.posonlyargs + own.args
    defaults = [False] * (len(positional) - len(own.defaults)) + [True] * len(own.defaults)
    parameters = [(argument.arg, "positional", default) for argument, default in zip(positional, defaults)]
    parameters += [("*", "rest", False)] if own.vararg else []
    parameters += [(argument.arg, "keyword", value is not None) for argument, value in zip(own.kwonlyargs, own.kw_defaults)]
    parameters += [("**", "rest", False)] if own.kwarg else []
    static = any(isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in node.decorator_list)
    return parameters[1:] if method and not static else parameters


def real(call, method):
    kinds = inspect.Parameter
    parameters = []
    for name, parameter in inspect.signature(call).parameters.items():
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            parameters.append(("*" if parameter.kind == kinds.VAR_POSITIONAL else "**", "rest", False))
        else:
            kind = "keyword" if parameter.kind == kinds.KEYWORD_ONLY else "positional"
            parameters.append((name, kind, parameter.default is not kinds.empty))
    return parameters[1:] if method and parameters[:1] and parameters[0][0] == "self" else parameters


def public(name):
    return not name.startswith("_")


def test_the_stub_has_the_names_of_the_module():
    names = {name for name in dir(_embedrock) if public(name)} - {"time_calls"}
    assert names == set(CLASSES) | set(FUNCTIONS)
    assert any(isinstance(node, ast.AnnAssign) and node.target.id == "__version__" for node in TREE.body)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_take_what_the_stub_says(name):
    assert stubbed(FUNCTIONS[name], False) == real(getattr(_embedrock, name), False)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_have_what_the_stub_says(name):
    cls, node = getattr(_embedrock, name), CLASSES[name]
    members = {member.name: member for member in node.body if isinstance(member, ast.FunctionDef)}
    assert {member for member in vars(cls) if public(member)} == {member for member in members if public(member)}
    # What a class answers beyond what every object does.
    special = {"__len__", "__contains__", "__enter__", "__exit__", "__hash__", "__iter__", "__getitem__", "__call__"}
    assert {member for member in special if member in vars(cls) and vars(cls)[member]} == special & set(members)
    for member, stub in members.items():
        is_property = any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in stub.decorator_list)
        value = vars(cls)[member]
        assert inspect.isdatadescriptor(value) == is_property, member
        if member == "__new__":
            assert stubbed(stub, True) == real(cls, False), member
        elif not is_property and public(member):
            assert stubbed(stub, True) == real(getattr(cls, member), True), member


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_keyword_arguments_are_those_of_the_stub(tmp_path, name):
    node = next(node for node in TREE.body if isinstance(node, ast.ClassDef) and node.name == name)
    with pytest.raises(TypeError, match="have no setting 'of_no_kind', only ") as caught:
        SETTINGS[name](tmp_path / "store", {"of_no_kind": 1})
    names = {field.target.id for field in node.body}
    assert set(str(caught.value).split("only ")[1].split(", ")) == names
    # None stands for what holds without it.
    SETTINGS[name](tmp_path / "other", dict.fromkeys(names))
