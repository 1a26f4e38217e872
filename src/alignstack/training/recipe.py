"""Recipe files: YAML read into a strict model, every problem at once, paths relative to the file."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from alignstack.core.errors import ConfigError
from alignstack.policy import strict


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _resolve(path: Path, info: ValidationInfo) -> Path:
    return ((info.context or Path.cwd()) / path.expanduser()).resolve()


RecipePath = Annotated[Path, AfterValidator(_resolve)]
"""A path; relative ones start at the folder of the recipe."""

Recipe = TypeVar("Recipe", bound=Strict)


def load(path: Path, model: type[Recipe]) -> Recipe:
    """Read a recipe. `${NAME}` and `${NAME:-default}` come from the environment. Raises ConfigError."""
    tree = strict.expand_env(strict.load_yaml(path), str(path))
    try:
        return model.model_validate(tree, context=path.resolve().parent)
    except ValidationError as error:
        raise ConfigError(strict.problems(error, str(path), model)) from None
