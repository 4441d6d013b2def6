"""Whether the records that a command is about to read have the form that `docs/formats.md` gives them.

`verify` judges a bundle and gives verdicts. `reproduce`, `inspect` and `compare` go on to use a stranger's records and
look here first, so that a record of another form is refused by file and field, before anything runs, and nothing that
comes after has to expect one. Nothing here says that a record is true.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from tokenizers import Tokenizer

from data_recipes.conversation_rows import CONVERSATION_COLUMNS
from data_recipes.documents import DOCUMENTS_SCHEMA
from provenance.canonical import Json
from provenance.errors import BundleError
from provenance.ledger import read_chain as chained_records
from provenance.made_model import AVERAGE, AVERAGE_RECORD
from release.bundle import RECORD_NAME
from release.bundle_limits import too_large
from release.record_forms import (
    LEDGER_FORMS,
    CheckpointForm,
    CodeForm,
    ComponentsForm,
    CorpusForm,
    EnvironmentForm,
    IdentityForm,
    LockForm,
    NotedForm,
    RecipeForm,
    RecordForm,
    ReleaseForm,
    ResultsForm,
    TombstonesForm,
)
from release.verify import (
    MAX_LINE_BYTES,
    Mismatch,
    Order,
    Split,
    Tree,
    canonical_json,
    check_format,
    check_record,
    is_harmless,
    parse_json,
    read_chain,
    require,
    show,
)

_LAYOUT_RECORDS = ("start", "resume", "replay")
_COLUMNS = {
    name: DOCUMENTS_SCHEMA.field(name).type
    for name in (
        *("document_id", "source", "path", "split", "decision", "rule", "score", "threshold", "num_tokens"),
        *("licence_spdx", "licence_declared", "evidence_kind", "evidence_locator", "evidence_sha256"),
    )
}
"""Columns of the table of documents that are shown."""


class Records:
    """Reads records of a directory as the commands will, and refuses the first that is none.

    Args:
        root: a bundle, or what its code wrote.
        labels: its parts as error messages name them, each a directory of plain files; empty for the root itself.

    Every method raises BundleError, naming file and field.
    """

    def __init__(self, root: Path, *labels: str) -> None:
        self._root = root
        places = {label: root / label for label in labels} or {root.name: root}
        with self._refusing():
            self._trees = {label: Tree(place, label) for label, place in places.items() if place.is_dir()}

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except Mismatch as error:
            raise BundleError(
                error.detail,
                expected="a record as docs/formats.md has it",
                where=f"{self._root}: {error.where}" if error.where else str(self._root),
                next_command=f"openwright verify {quote(str(self._root))}",
            ) from None

    def read(self, path: str, *forms: str | type[RecordForm]) -> Json:
        """Read a JSON file that has to have some forms: of `verify.py` by their names, or models."""
        with self._refusing():
            tree, place = self._find(path)
            value = tree.json(place, next((form for form in forms if isinstance(form, str)), "object"))
            for form in forms:
                if not isinstance(form, str):
                    _fit_model(value, form, tree.place(place))
            return value

    def has(self, path: str) -> bool:
        """Whether a file is there, and a plain one: links could lead anywhere, and pipes would hang."""
        label, _, place = path.partition("/")
        if label not in self._trees:
            return False
        tree = self._trees[label]
        with self._refusing():
            is_plain = place in tree.files
            require(is_plain or not os.path.lexists(tree.root / place), "is a link or no plain file", tree.place(place))
        return is_plain

    def plain(self, pattern: str) -> list[Path]:
        """Files that match a pattern, every one a plain file."""
        return [path for path in sorted(self._root.glob(pattern)) if self.has(path.relative_to(self._root).as_posix())]

    def _find(self, path: str) -> tuple[Tree, str]:
        label, _, place = path.partition("/")
        require(label in self._trees, "the file is missing", path)
        return self._trees[label], place

    # ---- what a bundle holds -----------------------------------------------------------------------------------------

    def stages(self) -> list[str]:
        """Names of the stages that the root manifest lists and that trained."""
        root = self.read("model/manifest.json", "openwright-bundle/1")
        names = [row["stage"] for row in root["stages"]]
        with self._refusing():
            for name in names:
                require(is_harmless(name) and "/" not in name, f"stage name {show(name)}", "model/manifest.json")
        return [name for name in names if self.has(f"model/training/{name}/ledger.jsonl")]

    def code(self) -> None:
        """`code/CODE.json`."""
        self.read("model/code/CODE.json", CodeForm)

    def run(self, stage: str) -> None:
        """Everything that a training stage recorded, and the records of its checkpoints."""
        folder, checkpoints = f"model/training/{stage}", f"model/checkpoints/{stage}"
        self.recipe(stage)
        self.read(f"{folder}/manifest.json", "openwright-artifact/1")
        self.read(f"{folder}/environment.json", EnvironmentForm)
        if self.has(f"{folder}/identity.json"):
            self.read(f"{folder}/identity.json", IdentityForm)
        self.read(f"{folder}/run.json", "openwright-run/1")
        self.ledger(stage)
        self.journal(f"{folder}/journal.jsonl")
        for path in sorted((self._root / checkpoints).glob("step-*")):
            self.read(f"{checkpoints}/{path.name}/checkpoint.json", CheckpointForm)

    def recipe(self, stage: str) -> Json:
        """The recipe of a training stage."""
        return self.read(f"model/training/{stage}/recipe.json", "recipe", RecipeForm)

    def ledger(self, stage: str, most_records: int | None = None) -> Order:
        """A ledger: a whole chain that begins with an order and has records of its kinds.

        Args:
            most_records: how many of them are read, from the first on; None for all.
        """
        with self._refusing():
            tree, path = self._find(f"model/training/{stage}/ledger.jsonl")
            lines = read_chain(tree, path)
            first = next(lines, None)
            if first is None or first.record.get("kind") != "start":
                raise Mismatch("the ledger does not begin with its start record", tree.place(path))
            check_format(first.record, "openwright-ledger/1", first.where)
            for line in islice(chain([first], lines), most_records):
                check_record(line)
            return Order(first.record["order"], f"{first.where}: order")

    def journal(self, path: str) -> None:
        """A journal: a whole chain, and layouts of processes where it tells some."""
        with self._refusing():
            for line in read_chain(*self._find(path)):
                require(isinstance(line.record.get("kind"), str), "field 'kind' is missing or no text", line.where)
                if line.record["kind"] in _LAYOUT_RECORDS:
                    _fit_model(line.record, NotedForm, line.where)

    def tokens(self, stages: Iterable[str]) -> None:
        """`tokens.json`: splits with their shards, those that the stages read among them; and what of them is blank."""
        place = "dataset/tokens/tokens.json"
        values = self.read(place, "openwright-tokens/1")
        with self._refusing():
            splits = {name: Split(name, split, f"{place}: {show(name)}") for name, split in values["splits"].items()}
        for stage in stages:
            data, order = self.recipe(stage)["data"], self.ledger(stage, most_records=1)
            with self._refusing():
                for name in (data["split"], data["heldout_split"], order.split):
                    require(name in splits, f"field 'splits' lacks {show(name)}, which {stage} reads", place)
                odd = sorted({pool.name for pool in order.pools} - splits[order.split].sources.keys())
                require(not odd, f"field 'sources' lacks {show(odd[:1])}, which {stage} reads", place)
        self.tombstones()

    def tombstones(self) -> None:
        """`tombstones.json`, where there is one."""
        if self.has("dataset/tombstones.json"):
            self.read("dataset/tombstones.json", "openwright-tombstones/1", TombstonesForm)

    def rebuilt_from(self) -> None:
        """What comparing a whole bundle with another one reads besides the runs."""
        manifest = self.read("dataset/manifest.json", "openwright-dataset/1")
        with self._refusing():
            check_format(manifest["corpus"], "openwright-artifact/1", "dataset/manifest.json: corpus")
        self.read("dataset/sources.lock", "openwright-sources/1", LockForm)
        self.read("model/openness/components.json", ComponentsForm)
        self.read("model/evaluation/manifest.json", "openwright-artifact/1")
        for path in ("dataset/environment.json", "model/evaluation/environment.json"):
            if self.has(path):
                self.read(path, EnvironmentForm)

    def documents(self) -> None:
        """Index, codes, tables and corpus record of the documents: their forms, and that no table unpacks too far."""
        self.read("dataset/documents/codes.json", "openwright-codes/1")
        self.read("dataset/corpus.json", "openwright-corpus/1", CorpusForm)
        self.plain("dataset/documents/index-*.bin")
        for path in self.plain("dataset/documents/documents-*.parquet"):
            self._table(path, _COLUMNS)

    def conversations(self) -> None:
        """Conversations made from documents: tables that do not unpack too far, with the columns that are read."""
        for path in self.plain("dataset/conversations/*.parquet"):
            self._table(path, dict.fromkeys(CONVERSATION_COLUMNS, pa.string()))

    def _table(self, path: Path, columns: Mapping[str, pa.DataType]) -> None:
        place = path.relative_to(self._root).as_posix()
        with self._refusing():
            require(not (problem := too_large(path)), problem, place)
            try:
                schema = pq.read_schema(path)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise Mismatch(f"no table that can be read ({show(str(error))})", place) from None
            for name, kind in columns.items():
                found = schema.field(name).type if name in schema.names else "missing"
                require(found in (kind, pa.null()), f"column {name!r} is {found}, not {kind}", place)


def _fit_model(value: Json, model: type[RecordForm], where: str) -> None:
    """Raise a Mismatch unless a value has the fields of a model."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise Mismatch(f"field {show('.'.join(map(str, problem['loc'])))!r}: {problem['msg']}", where) from None


def require_average(bundle: Path) -> tuple[Json, Json]:
    """`average.json` and the recipe of a stage `average`, in their forms.

    Raises:
        BundleError: for a record of another form, naming file and field.
    """
    records, folder = Records(bundle, "model"), f"model/training/{AVERAGE}"
    made = records.read(f"{folder}/{AVERAGE_RECORD}", "openwright-average/1")
    return made, records.read(f"{folder}/recipe.json", "averaging")


def require_for_replay(bundle: Path) -> None:
    """Refuse a bundle whose records no replay can be planned from or compared with; weights and tokens are not read.

    Raises:
        BundleError: for the first record of another form, naming file and field.
    """
    _replayable(bundle)


def require_for_rebuild(bundle: Path) -> None:
    """As `require_for_replay`, for all that `reproduce --full` reads of a bundle, or of the one that was rebuilt."""
    _replayable(bundle).rebuilt_from()


def _replayable(bundle: Path) -> Records:
    records = Records(bundle, "model", "dataset")
    records.code()
    stages = records.stages()
    for stage in stages:
        records.run(stage)
    records.tokens(stages)
    return records


def require_order(bundle: Path, stage: str) -> None:
    """Refuse a bundle whose order, recipe or table of shards is none; of the ledger only the first record is read."""
    records = Records(bundle, "model", "dataset")
    records.stages()
    records.tokens([stage])


def require_for_comparison(bundle: Path, stage: str) -> None:
    """Refuse a bundle whose recipe of a stage, or whose evaluation table, could not be laid beside others.

    Its ledger may be long: `ledger_records` looks at each record when it is read.
    """
    records = Records(bundle, "model")
    records.recipe(stage)
    if records.has("model/evaluation/results.json"):
        records.read("model/evaluation/results.json", ResultsForm)


def ledger_records(ledger: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a bundle's ledger, or of a run's that may still go on, with their kinds.

    Each is looked at before it is handed out; those of kinds that `compare` does not read are left out.

    Raises:
        ArtifactError: where the chain does not hold.
        BundleError: for a record of another form, naming line and field.
    """
    for number, record in enumerate(chained_records(ledger), start=1):
        kind = str(record.get("kind"))
        if kind not in LEDGER_FORMS:
            continue
        try:
            _fit_model(record, LEDGER_FORMS[kind], f"{ledger}:{number}")
        except Mismatch as error:
            told = f"a {kind} record of a ledger as docs/formats.md has it"
            raise BundleError(error.detail, expected=told, where=error.where) from None
        yield kind, record


def require_for_inspection(bundle: Path, *, with_text: bool, with_conversations: bool) -> None:
    """Refuse a bundle of which `inspect` could not read the rows of documents or the tokenizer.

    Args:
        with_text: whether tokens are turned into text again.
        with_conversations: whether conversations, made from documents, stand behind the tokens.
    """
    records = Records(bundle, "model", "dataset")
    records.tombstones()
    records.documents()
    if with_conversations:
        records.conversations()
    for path in records.plain("model/tokenizer.json") if with_text else ():
        try:
            Tokenizer.from_file(str(path))
        except Exception as error:  # all that the library raises
            told = f"no tokenizer that can be read ({show(str(error))})"
            raise BundleError(told, where=str(path), next_command=f"openwright verify {quote(str(bundle))}") from None


def require_written(output: Path) -> None:
    """Refuse what a bundle's code wrote as a replay or as a training stage, where it is no record of one.

    Raises:
        BundleError: naming file and field.
    """
    records, name = Records(output), output.name
    if records.has(f"{name}/ledger.jsonl"):
        _require_lines(output / "ledger.jsonl")
    if records.has(f"{name}/environment.json"):
        records.read(f"{name}/environment.json", EnvironmentForm)
    if records.has(f"{name}/journal.jsonl"):
        records.journal(f"{name}/journal.jsonl")
    for path in sorted(output.glob("checkpoints/step-*")):
        records.read(f"{name}/checkpoints/{path.name}/checkpoint.json", CheckpointForm)


def require_artifact(directory: Path) -> None:
    """Refuse what a bundle's code made as the artifact of a stage, where its records are none.

    Raises:
        BundleError: naming file and field.
    """
    require_written(directory)
    records, name = Records(directory), directory.name
    records.read(f"{name}/manifest.json", "openwright-artifact/1")
    if records.has(f"{name}/run.json"):
        records.read(f"{name}/run.json", "openwright-run/1")
    if records.has(f"{name}/{RECORD_NAME}"):
        records.read(f"{name}/{RECORD_NAME}", ReleaseForm)


def _require_lines(ledger: Path) -> None:
    """Records of a replay are chained to a record of another file: their chain is compared with it, not here."""
    with ledger.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            where = f"{ledger.name}:{number}"
            try:
                record: Any = parse_json(line.rstrip(b"\n"), where)
                is_one = isinstance(record, dict) and isinstance(record.get("kind"), str)
                steps = [record.get(key, 0) for key in ("step", "first")] if is_one else []
                require(is_one and all(type(step) is int and step >= 0 for step in steps), "no record of a step", where)
                canonical_json(record)
            except Mismatch as error:
                raise BundleError(error.detail, expected="records of a ledger", where=error.where) from None
