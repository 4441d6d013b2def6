"""The steps of a corpus build by name, for whichever process does one of their tasks."""

from pathlib import Path

from data_recipes.build import StepFunction, run_stored_task
from data_recipes.chat_step import read_chat_file
from data_recipes.compare_steps import find_contamination, make_shingles, name_suspects
from data_recipes.decide_step import decide
from data_recipes.gather_step import gather
from data_recipes.place_step import place
from data_recipes.read_step import read_part
from data_recipes.tokenize_step import tokenize
from data_recipes.train_step import train

STEPS: dict[str, StepFunction] = {
    "chats": read_chat_file,
    "contamination": find_contamination,
    "decide": decide,
    "gather": gather,
    "place": place,
    "read": read_part,
    "shingles": make_shingles,
    "suspects": name_suspects,
    "tokenize": tokenize,
    "train": train,
}


def run_task(root: str, step: str, number: int) -> None:
    """Do one task of the build in a directory; all it has to know is on disk there."""
    run_stored_task(STEPS, Path(root), step, number)
