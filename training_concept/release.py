# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m training_concept.release RUN FOLDER`: a finished run as a folder of `model_cards/`, to be committed.

    python -m training_concept.release outputs/mini model_cards/mini --own 'o_proj|^head|^lm_head'
    python run_glue.py --model_name_or_path model_cards/mini --trained_weights 'o_proj|classifier' \\
        --output_dir outputs/mini-sentiment ...
    python -m training_concept.release outputs/mini-sentiment model_cards/mini-sentiment --base model_cards/mini

Weights in bfloat16, tokenizer, code, card and results, which load by themselves in a fresh process. With --own the
weights that fine-tuning will change lie in a file of their own, so that fine-tuned models can link to the others.
--refresh_code gives folders that were released the code of this installation, and changes nothing else.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from configuration_concept import export_code
from evaluation_concept.errors import exit_code
from training_concept.publishing.card import rename_in_card
from training_concept.publishing.contents import CARD, WEIGHTS, survey
from training_concept.publishing.sharing import read_weights, split_weights, write_unshared_weights, write_weights
from training_concept.publishing.validation import load_in_fresh_process

# They name folders of the machine that trained, and say what the card says.
LEFT_OUT = ("training_args.json", "trainer_state.json")


def release(run: Path, folder: Path, *, own: str | None = None, base: Path | None = None) -> dict:
    """
    Make a folder to be committed of the output folder of a run.

    Args:
        run: output folder of a run; it is not changed.
        folder: to make. There must be none of that name.
        own: regular expression for the weights that fine-tuned models will not share (`split_weights`).
        base: released folder that the run was fine-tuned from, beside `folder`, whose weights it links to.

    Returns:
        The model's class and its number of parameters (`load_alone.main`).

    Raises:
        OSError: no such run.
        ValueError: `folder` is there, the run holds no model, or what was made of it does not load by itself.
    """
    if folder.exists():
        raise ValueError(f"{folder} is there already: remove it, or choose another name.")
    files = {name: path for name, path in survey(run).travels.items() if name not in LEFT_OUT}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that links from it lead where they will.
    with TemporaryDirectory(prefix=".release-", dir=folder.parent) as scratch:
        draft = Path(scratch)
        for name, path in files.items():
            if not any(fnmatch(name, pattern) for pattern in WEIGHTS):
                shutil.copyfile(path, draft / name)
        export_code(draft)
        if base:
            write_unshared_weights(draft, read_weights(run), base)
        else:
            write_weights(draft, split_weights(read_weights(run), own))
        if (draft / CARD).is_file():
            _name_card(draft / CARD, run, folder)
        report = load_in_fresh_process(draft)
        if report["problems"]:
            raise ValueError(f"{run} is not fit to be released: {'; '.join(report['problems'])}.")
        shutil.copytree(draft, folder, symlinks=True, copy_function=shutil.copyfile)
        folder.chmod(0o755)  # scratch folders are their maker's alone
    return report


def _name_card(card: Path, run: Path, folder: Path) -> None:
    """Let the card call the model by its new name, and its code find it from the root of the repository."""
    text = card.read_text(encoding="utf-8")
    card.write_text(rename_in_card(text, run.resolve().name, folder.name, folder.as_posix()), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, release, say what there is now."""
    parser = argparse.ArgumentParser(
        prog="python -m training_concept.release", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="RUN FOLDER, or folders to refresh")
    parser.add_argument("--own", metavar="REGEX", help="names of weights that fine-tuned models will not share")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="released folder to share weights with")
    parser.add_argument("--refresh_code", action="store_true", help="only renew the code in released folders")
    options = parser.parse_args(arguments)
    if options.refresh_code:
        for folder in options.paths:
            if not (folder / "config.json").is_file():
                raise ValueError(f"{folder} holds no model: there is no config.json.")
            export_code(folder)
        return
    if len(options.paths) != 2 or (options.own and options.base):
        raise ValueError("Name the folder of a run and the folder to make, and --own or --base or neither.")
    run, folder = options.paths
    report = release(run, folder, own=options.own, base=options.base)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors") if not path.is_symlink())
    print(f"{folder}: {report['class']} of {report['parameters']:,} parameters, {size / 1e6:.1f} MB of its own")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
