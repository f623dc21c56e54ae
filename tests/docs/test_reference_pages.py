"""The pages of reference say what the code says: the columns of tables, and the public names."""

import dataclasses
import importlib
import re

import pyarrow as pa
import pytest
from pages import rows, text_of

import symrun
import symrun.laws
import symrun.symmetry
from symrun.listing.collection import _LAWS, _OF_RUN, _TYPES
from symrun.runs.info import RunInfo
from symrun.runs.tables import OPTIONAL, PROGRESS_SCHEMA, parameters_schema, units_schema

VALUE = pa.float32()
TYPES = {"text": pa.dictionary(pa.int16(), pa.string()), "value": VALUE}
API = re.findall(r"^::: (\S+)", text_of("docs/api.md"), re.M)


def section(title):
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text_of("docs/tables.md"), re.M | re.S)
    return [[cell.strip("`") for cell in row] for row in rows(text)]


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("units", units_schema(VALUE)),
        ("parameters", parameters_schema(VALUE)),
        ("progress", PROGRESS_SCHEMA),
    ],
)
def test_the_columns_are_those_of_the_schema(title, schema):
    """In its order and with its types: the first table of the section."""
    listed = section(title)[1 : len(schema.names) + 1]
    assert [name for name, *_ in listed] == schema.names
    for name, kind, *_ in listed:
        assert schema.field(name).type == (TYPES.get(kind) or pa.type_for_alias(kind)), name


def test_the_columns_that_only_some_runs_have_are_all_there():
    assert [name for name, *_ in section("units")[-len(OPTIONAL) :]] == [*OPTIONAL]


def test_the_columns_of_a_collection_are_all_there():
    listed = [(name, kind) for name, kind, _ in section("Collected runs")[1:]]
    types = [(name, str(_TYPES[kind])) for name, kind in _OF_RUN.items()]
    assert listed == types + [(field.name, str(field.type)) for field in _LAWS]


def test_the_fields_of_run_json_are_those_of_run_info():
    names = ["schema", *(field.name for field in dataclasses.fields(RunInfo))]
    assert [name for name, *_ in section("run.json")[1:]] == names


def test_the_public_names_are_on_the_page_of_python():
    for module in (symrun, symrun.symmetry, symrun.laws):
        for name in module.__all__:
            here = getattr(module, name)
            assert any(found is here for found in map(named, API) if found is not None), name


@pytest.mark.parametrize("name", API)
def test_what_the_page_of_python_names_exists(name):
    if name.startswith("symrun.integrations."):
        pytest.importorskip(name.split(".")[2])
    assert getattr(named(name), "__doc__", None)


def named(name):
    """The object, or None if it needs a package that is not there."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError:
        return None
