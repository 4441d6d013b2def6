"""Step `train`: the tokenizer, trained on the texts of all shards in document id order or taken from a file."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_recipes.bpe import TOKENIZER_DIR, save_tokenizer, take_tokenizer, taken_path, train_tokenizer
from data_recipes.build import Build
from data_recipes.documents import TEXT_SPLITS
from data_recipes.gather_step import texts_to_tokenize
from data_recipes.settings import TAKEN_TOKENIZER
from data_recipes.tasks import SCRATCH, Outputs
from data_recipes.tokenizer_proof import choose_engine, round_trip
from provenance.canonical import Json


def train(build: Build, value: Json, outputs: Outputs) -> Json:
    """Train or take the tokenizer and choose what tokenizes.

    `value` is `{texts: [{<split>: number of documents} for each shard], size_bytes}`, bytes of all texts to tokenize.

    Returns:
        `{engine: EngineChoice as JSON, round_trip: as `tokenizer_proof.round_trip`, null for one that is trained}`.

    Raises:
        DataError: as `train_tokenizer` and `take_tokenizer`.
        SourceError: as `take_tokenizer`.
    """
    config = build.config.tokenizer
    if config.file is not None:
        tokenizer = take_tokenizer(config, build.config.execution)
        with outputs.file(TAKEN_TOKENIZER) as target:
            shutil.copyfile(taken_path(config.file, build.config.execution), target)
    else:
        num_texts = sum(counts.get("train", 0) for counts in value["texts"])
        tokenizer = train_tokenizer(_texts(build, value["texts"], ["train"]), num_texts, config)
    with tempfile.TemporaryDirectory(dir=build.root / SCRATCH) as folder:
        save_tokenizer(tokenizer, config, Path(folder))
        for path in sorted(Path(folder).iterdir()):
            with outputs.file(f"{TOKENIZER_DIR}/{path.name}") as target:
                shutil.copyfile(path, target)
    _, choice = choose_engine(tokenizer, _texts(build, value["texts"], TEXT_SPLITS), value["size_bytes"])
    taken = config.file is not None
    sample = round_trip(tokenizer, _texts(build, value["texts"], TEXT_SPLITS)) if taken else None
    return {"engine": choice.as_json(), "round_trip": sample}


def _texts(build: Build, num_texts: Sequence[Mapping[str, int]], splits: Sequence[str]) -> Iterator[str]:
    for shard, counts in enumerate(num_texts):
        for split in splits:
            if counts.get(split):
                for table in texts_to_tokenize(build, split, shard, ("text",)):
                    yield from (text.as_py() for text in table.column("text"))
