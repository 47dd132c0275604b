# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Cards of released checkpoints: every section is there, numbers are those of files, and writing changes nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from benchmarks import release_cards, release_figures, released
from benchmarks.release_figures import ANALYSIS, ANALYSIS_FIGURE, JOULES_PER_KWH, key_of
from benchmarks.results import RESULTS, Figure, read_results
from evaluation_concept.errors import exit_code
from training_concept.publishing.card import TEMPLATES
from training_concept.publishing.contents import CARD, survey

from .conftest import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/config.json"))
FIGURES = read_results(RESULTS / "hub.json").figures
LARGEST_FIGURE = 150_000
# What a reader looks for, by the heading or the words that it is found by.
SECTIONS = (
    "## Use",
    "## Licence",
    "## Intended use",
    "## Limits",
    "## Results",
    "## Training",
    "## Spread",
    "## Speed",
    "## Concepts",
    "## Compute",
    "## Make it again",
    "## Not run",
    "## Measured again on a CPU",
)
OF_A_HEAD = ("## Base", "## Training data")
# As the Hub calls them.
PIPELINES = {"fill-mask", "sentence-similarity", "text-classification"}
LIBRARIES = {"transformers", "sentence-transformers"}
TEMPLATE_OF = {
    "fill-mask": "masked_lm.md",
    "sentence-similarity": "text_embedding.md",
    "text-classification": "text_classification.md",
}


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request) -> Path:
    return request.param


@pytest.fixture
def card(folder) -> ModelCard:
    return ModelCard.load(folder / CARD)


def section(text: str, heading: str) -> str:
    """The text below a heading, up to the next one or to the end of what was written with it."""
    return re.split(r"^(?:## |<!-- /?release)", text.partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]


def test_a_card_has_every_section_once(folder, card):
    wanted = SECTIONS + (() if release_figures.is_language_model(folder) else OF_A_HEAD)
    assert {name: len(re.findall(rf"^{name}$", card.text, re.MULTILINE)) for name in wanted} == dict.fromkeys(
        wanted, 1
    )
    assert all(section(card.text, name).strip() for name in wanted)
    # A card was filled in, and lays out well.
    assert not re.search(r"\{\{|None|nan|More Information|\n\n\n", card.text)


def test_a_card_says_how_to_load_one_commit(card):
    code = section(card.text, "## Use")
    assert 'revision="COMMIT", code_revision="COMMIT"' in code
    assert f'from_pretrained("model_cards/{card.data.model_name}", **pinned)' in code


def test_what_templates_say_of_all_models_is_on_the_cards(card):
    template = (TEMPLATES / TEMPLATE_OF[card.data.pipeline_tag]).read_text(encoding="utf-8")
    for heading in ("## Intended use", "## Limits"):
        assert section(card.text, heading).strip() == section(template, heading).strip()
    (pinned,) = re.findall(r"^pinned = .*\n.*\n.*\n", template, re.MULTILINE)
    assert pinned.replace("{{ title }}", f"model_cards/{card.data.model_name}") in card.text


def test_metadata_are_such_as_the_hub_takes(folder, card):
    """As far as that can be told without it: it checks addresses and licences itself when a card is uploaded."""
    text = (folder / CARD).read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---\n")[1])
    data = ModelCardData(**metadata)
    assert data.to_dict() == card.data.to_dict() == metadata
    assert (data.language, data.license) == ("en", "apache-2.0")
    assert data.pipeline_tag in PIPELINES
    assert data.library_name in LIBRARIES
    assert {"concept-encoder", "custom_code"} <= set(data.tags)
    assert len(data.tags) == len(set(data.tags))
    assert data.base_model is None  # its base is a folder
    for name in data.datasets or []:
        validate_repo_id(name)
        assert name.count("/") == 1
    assert (data.datasets is None) == release_figures.is_language_model(folder)
    for result in data.eval_results:
        assert result.task_type == data.pipeline_tag
        assert isinstance(result.metric_value, float)


def test_writing_cards_again_changes_nothing(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    release_cards.main([str(copy), "--check"])
    release_cards.main([str(copy)])
    assert (copy / CARD).read_bytes() == (folder / CARD).read_bytes()


def test_a_card_that_lost_its_sections_gets_them_back_in_their_place(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    text = (folder / CARD).read_text(encoding="utf-8")
    begin, end = release_cards.BEGIN, release_cards.END
    (copy / CARD).write_text(re.sub(rf"{begin}.*{end}\n\n", "", text, flags=re.DOTALL), encoding="utf-8")
    assert exit_code(release_cards.main, [str(copy), "--check"]) == 2
    release_cards.main([str(copy)])
    assert (copy / CARD).read_text(encoding="utf-8") == text


def test_the_other_command_leaves_the_sections_alone(folder, tmp_path):
    """`benchmarks.released` writes its own section, in whichever order the two are run."""
    copy = shutil.copytree(folder, tmp_path / folder.name)
    results = ModelCard.load(copy / CARD).data.eval_results
    measurement = released.Measurement("python -V", "r.json", {}, "fill-mask", ("sotu", "speeches"), "test")
    released.write_card(copy, {measurement: results}, [])
    before = (copy / CARD).read_bytes()
    release_cards.main([str(copy)])
    assert (copy / CARD).read_bytes() == before
    assert before.decode().count(release_cards.BEGIN) == 1


def test_speeds_are_those_of_the_results(folder, card):
    rows = [row.split(" | ") for row in re.findall(r"^\| (\d[^|]* \|.*) \|$", section(card.text, "## Speed"), re.M)]
    assert [int(row[0].replace(",", "")) for row in rows] == [*release_figures.LENGTHS]
    for row, length in zip(rows, release_figures.LENGTHS, strict=True):
        rate = FIGURES[key_of(f"tokens_per_s_{length}", folder)]
        times = FIGURES[key_of(f"tokens_x_modernbert_{length}", folder)]
        assert (row[1], row[3]) == (f"{rate.value:,.0f}", f"{times.value:.2f}")
        assert rate.spread is not None
        assert rate.device in " ".join(section(card.text, "## Speed").split())


def test_compute_is_what_the_run_says(folder, card):
    seconds, trainings = release_figures.training_seconds(folder)
    device = FIGURES[key_of("train_seconds", folder)].device
    for key, figure in release_figures.training_figures(folder, device).items():
        assert FIGURES[key].value == figure.value
    text = section(card.text, "## Compute")
    kwh = FIGURES[key_of("train_kwh", folder)].value
    assert kwh == pytest.approx(700 * seconds * trainings / JOULES_PER_KWH)
    assert f"| energy, at most | {kwh:.3f} kWh |" in text
    assert f"| CO2, at most | {1000 * release_cards.GRID * kwh:.0f} g |" in text
    assert re.search(rf"\| seconds of training(, at most)? \| {seconds * trainings:,.0f} \|", text)
    assert "computed and not measured" in " ".join(text.split())
    assert (f"1 x {device}" in card.text, "H100" in device or "H200" in device) == (True, True)


def test_the_analysis_is_that_of_the_folder(folder, card):
    content = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))
    text = section(card.text, "## Concepts")
    for name, value in content["this model"].items():
        assert f"| {name.replace('_', ' ')} | {value:.3f} |" in text
    assert f"]({ANALYSIS_FIGURE})" in text
    assert f"`{content['command']}`" in " ".join(text.split())
    assert {"command", "commit", "device", "date"} <= content.keys()
    assert (folder / ANALYSIS_FIGURE).stat().st_size < LARGEST_FIGURE
    assert {ANALYSIS, ANALYSIS_FIGURE} <= survey(folder).travels.keys()


def test_the_spread_is_that_of_the_run(folder, card):
    text = section(card.text, "## Spread")
    if release_figures.is_language_model(folder):
        losses = release_cards.losses_by_text(folder)
        assert f"{min(losses.values()):.3f}" in text
        assert f"{max(losses.values()):.3f}" in text
        assert f"splits of {len(losses)} texts" in card.text
        for name in release_figures.DRAWN:
            figure = FIGURES[key_of(f"masks_{name}", folder)]
            assert f"{figure.value:.3f} ± {figure.spread:.3f}" in " ".join(text.split())
    assert "One training" in text


def test_heads_name_what_they_were_trained_on(folder, card):
    for task in release_cards.tasks_of(folder):
        data = release_cards.DATA[task]
        row = next(line for line in section(card.text, "## Training data").splitlines() if data.title in line)
        assert data.licence in row
        assert data.hub in card.data.datasets
        if (folder / "results.json").is_file():
            assert f"trained on {row.split(' | ')[1]} examples" in section(card.text, "## Results")


def test_a_card_says_what_its_licence_is_of(folder, card):
    text = " ".join(section(card.text, "## Licence").split())
    assert f"The licence, {card.data.license}, is of the weights and the code." in text
    base = folder if release_figures.is_language_model(folder) else ROOT / release_cards.base_of(folder)
    for name, licence in release_cards.licences(base).items():
        assert (f"`{name}`" in text) == any(mark in licence for mark in release_cards.RESTRICTED.values())
    assert "not free, wholly or in part, are `emacs_manuals`, `gnu_manuals`, `manual_pages` and `rfc`" in text
    assert ("Rotten Tomatoes" in text) == ("sst2" in release_cards.tasks_of(folder))


def test_a_card_explains_what_its_tables_show(folder, card):
    results, training = (section(card.text, name) for name in ("## Results", "## Training"))
    assert ("Random encoder" in card.text) == ("| random encoder |" in results)
    assert "swept" not in training
    assert "| Length |" not in training
    if (folder / "results.json").is_file():
        (task,) = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"].values()
        assert f"| Learning rate | {task['chosen'][0]['learning_rate']:g} (chosen by the sweep) |" in training


def test_a_card_says_which_figures_can_be_made_again(folder, card):
    text = " ".join(section(card.text, "## Measured again on a CPU").split())
    assert "Equal means within a tolerance" in text
    assert "It makes no other figure of this card again" in text
    wanted = [command.split()[:3] for item in released.measurements(folder) for command in item.commands]
    lines = section(card.text, "## Measured again on a CPU").splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("python ")] == wanted
    for result in card.data.eval_results:
        assert f"| {result.metric_type} | {result.metric_value:.4f} |" in text


def test_making_it_again_begins_with_the_recipe_and_ends_with_the_card(folder, card):
    recipe = release_figures.find_recipe(folder)
    lines = section(card.text, "## Make it again").splitlines()
    commands = [line for line in lines if line.startswith("python ")]
    assert any(recipe.as_posix() in line for line in commands)
    assert commands[-1] == f"python -m benchmarks.release_cards model_cards/{folder.name}"


def test_a_recipe_tells_its_commands_with_what_continues_them():
    text = "# What it makes:\n#   python a.py \\\n#       --b c\n# and more\nkey: value\n#   python late.py\n"
    assert release_cards.recipe_commands(text) == ["python a.py \\", "    --b c"]


def test_a_checkpoint_without_recipe_or_figures_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="makes nobody"):
        release_figures.find_recipe(Path("nobody"))
    assert exit_code(lambda words: release_cards.main(words, tmp_path / "none.json"), [str(FOLDERS[0])]) == 2
    assert "measure it by python -m benchmarks.release_figures" in capsys.readouterr().err
    with pytest.raises(ValueError, match="The power of a TPU is not known"):
        release_figures.training_figures(FOLDERS[0], "TPU")


def test_speed_is_measured_beside_a_control(folder, monkeypatch):
    monkeypatch.setattr(release_figures, "BATCH_TOKENS", 64)
    monkeypatch.setattr(release_figures, "LENGTHS", (32,))
    figures = release_figures.measure_speed([folder], 2, "a command")
    assert figures.keys() == {key_of("tokens_per_s_32", folder), key_of("tokens_x_modernbert_32", folder)}
    assert all(isinstance(figure, Figure) and figure.runs == 2 and figure.value > 0 for figure in figures.values())


def test_losses_over_draws_of_masks_are_collected(folder, monkeypatch):
    """Each draw is the measurement of `benchmarks.released` with another seed."""
    commands = []

    def run(measurement, model, places):
        commands.append(measurement.command)
        return [measurement._result(name, 2.0 + len(commands)) for name in measurement.figures]

    monkeypatch.setattr(released.Measurement, "run", run)
    figures = release_figures.measure_masks(folder, [5, 6], "a command")
    assert [command.split()[-2:] for command in commands] == [["--seed", "5"], ["--seed", "6"]]
    assert {(figure.value, figure.runs, figure.command) for figure in figures.values()} == {(3.5, 2, "a command")}


def test_an_analysis_is_taken_over(folder, tmp_path):
    """Of a report what is of the model, and beside it what there is of random weights."""
    copy = shutil.copytree(folder, tmp_path / folder.name)
    report = tmp_path / "report"
    numbers = {"entropy_rank_share": 0.5, "other": 1}
    geometry = {"model": numbers, "random": {"entropy_rank_share": 0.25}}
    (report / "figures").mkdir(parents=True)
    for name in (release_figures.ABLATION, release_figures.SPECTRUM):
        (report / "figures" / f"{name}.png").write_bytes(name.encode())
    content = {"settings": {"rows": 7}, "geometry": geometry, "ablation": {"full": 3.0}}
    (report / "report.json").write_text(json.dumps(content), encoding="utf-8")
    release_figures.keep_analysis(report, copy)
    kept = json.loads((copy / ANALYSIS).read_text(encoding="utf-8"))
    assert kept["this model"] == {"entropy_rank_share": 0.5, "mlm_loss": 3.0}
    assert kept["random weights"] == {"entropy_rank_share": 0.25}
    assert kept["rows"] == 7
    expected = release_figures.ABLATION if release_figures.is_language_model(folder) else release_figures.SPECTRUM
    assert (copy / ANALYSIS_FIGURE).read_text() == expected
