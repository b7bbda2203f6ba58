"""One environment variable: its name, its field, how its value is read, and what the docs say about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from runai_model_streamer.errors import ConfigError
from runai_model_streamer.io.secret import Secret, Url
from runai_model_streamer.settings.parsers import Parser


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable."""

    name: str
    field: str
    """Field of `LoadConfig`, or of `S3Config` after `s3.`, and so on. Two variables may set one field."""
    parser: Parser
    default: str
    """The default, for the documentation. `LoadConfig` has the value."""
    sentence: str
    """When to change it; Markdown."""
    secret: bool = False
    """Nothing may show the value."""

    def read(self, environ: Mapping[str, str]) -> object:
        """Return the value; None if the variable is unset or empty.

        Raises:
            ConfigError: the variable's value is invalid.
        """
        text = (Secret if self.secret else Url)(environ.get(self.name, "").strip())
        if not text:
            return None
        try:
            return self.parser.read(text)
        except ValueError:
            problem = f"{self.name}={text!r} cannot be used"
            raise ConfigError(problem, remedy=f"set it to {self.parser.expected}", sep=": ") from None
