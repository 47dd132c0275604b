# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0
"""Run transformers' own common model tests, in the version that is installed, on a model outside transformers.

    run_peer_suite.py [--remote] PROJECT_ROOT TEST_FILE [pytest arguments]

The wheel of transformers has no tests but its source distribution has: it is downloaded once into PROJECT_ROOT/.cache,
its mixins are laid out as a package in a temporary folder, and TEST_FILE runs inside that package, so that it imports
them as the models of transformers do (`from ...test_modeling_common import ModelTesterMixin`). With --remote, the
classes under test are not those of PROJECT_ROOT but the code that a saved checkpoint carries.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

MIXINS = ("test_modeling_common.py", "test_configuration_common.py", "test_training_mixin.py")
# Modules that the mixins import and the source distribution lacks; none of their tests applies to an encoder.
CONFIG_FIELDS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "utils/test_configuration_utils.py": f"config_common_kwargs = {CONFIG_FIELDS!r}\n",
}
# A release that skips nearly everything must not look like success.
FEWEST_PASSES = 100
EXPORT = "import sys, configuration_concept as c; c.ConceptEncoderConfig().save_pretrained(sys.argv[1])"


class SkipSummary:
    """A pytest plugin that counts the passes, and the skips by the row of README.md that explains them."""

    def __init__(self, readme: Path) -> None:
        rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", readme.read_text(encoding="utf-8"), flags=re.MULTILINE)
        self.explanations = {re.compile(pattern): why for pattern, why in rows}
        self.passed = 0

    def explain(self, reason: str) -> str:
        """Return the explanation of a skip `reason`, or the reason itself marked as unexplained."""
        why = (why for pattern, why in self.explanations.items() if pattern.search(reason))
        return next(why, f"NOT IN README.md: {reason}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print each explanation with the number of skips it covers."""
        self.passed = len(terminalreporter.getreports("passed"))
        reasons = (report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
        terminalreporter.section("skipped, and why")
        for why, count in Counter(map(self.explain, reasons)).most_common():
            terminalreporter.line(f"{count:4d}  {why}")


def download_source(cache: Path) -> Path:
    """Return the source distribution of the installed transformers, downloading it into `cache` if it is not there."""
    name = f"transformers-{version('transformers')}.tar.gz"
    if not (cache / name).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
            subprocess.run([*pip, "--dest", folder, f"transformers=={version('transformers')}"], check=True)
            os.replace(Path(folder, name), cache / name)
    return cache / name


def write_package(folder: Path, source: Path, test_file: Path) -> None:
    """Lay out mixins, stubs and `test_file` under `folder` the way the tests of transformers are laid out."""
    with tarfile.open(source) as archive:
        prefix = source.name.removesuffix(".tar.gz")
        files = {name: archive.extractfile(f"{prefix}/tests/{name}").read() for name in MIXINS}
    files |= {name: text.encode() for name, text in STUBS.items()}
    files[f"models/concept/{test_file.name}"] = test_file.read_bytes()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for parent in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        (parent / "__init__.py").touch()


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; what follows TEST_FILE is left to pytest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--remote", action="store_true", help="test the code that a saved checkpoint carries")
    parser.add_argument("project_root", type=Path)
    parser.add_argument("test_file", type=Path)
    parser.add_argument("pytest_args", nargs=argparse.REMAINDER)
    return parser.parse_args()


def main() -> int:
    """Run the suite and return pytest's exit code, or 1 if a full run passed suspiciously few tests."""
    args = parse_arguments()
    root, test_file = args.project_root.resolve(), args.test_file.resolve()
    source = download_source(root / ".cache" / "peer")
    summary = SkipSummary(Path(__file__).with_name("README.md"))
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        write_package(Path(folder, "hf_peer"), source, test_file)
        Path(folder, "pytest.ini").write_text("[pytest]\nfilterwarnings = ignore\n", encoding="utf-8")
        os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(Path(folder, "hf")))
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small to share between threads
        if args.remote:
            checkpoint = os.environ["CONCEPT_PEER_CHECKPOINT"] = str(Path(folder, "checkpoint"))
            subprocess.run([sys.executable, "-c", EXPORT, checkpoint], cwd=root, check=True)
        else:
            sys.path.insert(0, str(root))
        os.chdir(folder)
        status = pytest.main(["-q", "-p", "no:cacheprovider", "hf_peer/models/concept", *args.pytest_args], [summary])
        os.chdir(root)
    if not args.pytest_args and summary.passed < FEWEST_PASSES:
        print(f"only {summary.passed} tests passed; at least {FEWEST_PASSES} of the suite apply to this model")
        return 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
