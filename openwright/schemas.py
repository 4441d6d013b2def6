"""JSON Schemas of the config files, so that editors complete and check them: `python -m openwright.schemas`.

A YAML file asks for its schema in its first line: `# yaml-language-server: $schema=../schemas/corpus.schema.json`.
"""

import json
from pathlib import Path

from openwright.cluster import ClusterConfig
from openwright.configs import CONFIG_MODELS, config_model
from provenance.fingerprint import project_root

SCHEMAS_DIR = Path("configs") / "schemas"
CLUSTER = "cluster"
SCHEMA_NAMES = (*CONFIG_MODELS, CLUSTER)
"""Every stage, and the cluster file."""


def schema_text(name: str) -> str:
    """The JSON Schema of `<stage>.yaml` or of a cluster file, as its file holds it."""
    model = ClusterConfig if name == CLUSTER else config_model(name)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def schema_path(name: str, root: Path | None = None) -> Path:
    """Where a schema lies in the project."""
    return (root or project_root()) / SCHEMAS_DIR / f"{name}.schema.json"


def main() -> None:
    """Write all schemas."""
    for name in SCHEMA_NAMES:
        path = schema_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(schema_text(name), encoding="utf-8")
        print(path.relative_to(project_root()))


if __name__ == "__main__":
    main()
