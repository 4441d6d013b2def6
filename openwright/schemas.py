"""JSON Schemas of the config files, so that editors complete and check them: `python -m openwright.schemas`.

A YAML file asks for its schema in its first line: `# yaml-language-server: $schema=../schemas/corpus.schema.json`.
"""

import json
from pathlib import Path

from openwright.configs import CONFIG_MODELS, config_model
from provenance.fingerprint import project_root

SCHEMAS_DIR = Path("configs") / "schemas"


def schema_text(stage: str) -> str:
    """The JSON Schema of `<stage>.yaml`, as its file holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **config_model(stage).model_json_schema()}
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def schema_path(stage: str, root: Path | None = None) -> Path:
    """Where the schema of a stage lies in the project."""
    return (root or project_root()) / SCHEMAS_DIR / f"{stage}.schema.json"


def main() -> None:
    """Write all schemas."""
    for stage in CONFIG_MODELS:
        path = schema_path(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(schema_text(stage), encoding="utf-8")
        print(path.relative_to(project_root()))


if __name__ == "__main__":
    main()
