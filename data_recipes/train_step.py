"""Step `train`: the tokenizer, trained on the texts of all shards in document id order."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_recipes.bpe import TOKENIZER_DIR, save_tokenizer, train_tokenizer
from data_recipes.build import Build
from data_recipes.gather_step import text_path
from data_recipes.part_files import read_columns
from data_recipes.tasks import SCRATCH, Outputs
from provenance.canonical import Json


def train(build: Build, value: Json, outputs: Outputs) -> Json:
    """Train the tokenizer; `value` is `{texts: [number of training documents of each shard]}`.

    Raises:
        DataError: as `train_tokenizer`.
    """
    config = build.config.tokenizer
    tokenizer = train_tokenizer(_texts(build.root, value["texts"]), sum(value["texts"]), config)
    with tempfile.TemporaryDirectory(dir=build.root / SCRATCH) as folder:
        save_tokenizer(tokenizer, config, Path(folder))
        for path in sorted(Path(folder).iterdir()):
            with outputs.file(f"{TOKENIZER_DIR}/{path.name}") as target:
                shutil.copyfile(path, target)
    return {}


def _texts(root: Path, num_texts: Sequence[int]) -> Iterator[str]:
    for shard, number in enumerate(num_texts):
        if number:
            for table in read_columns(root / text_path("train", shard), ("text",)):
                yield from (text.as_py() for text in table.column("text"))
