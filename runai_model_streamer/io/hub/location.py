"""Parses hf:// URLs."""

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from runai_model_streamer.errors import ArgumentError, IsDirectoryError

_URL: Final = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<name>.*))?", re.DOTALL
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_OTHER_KINDS: Final = ("datasets", "spaces")
_FORM: Final = "hf://org/model, hf://org/model@revision or hf://org/model/file"


class HubLocation(NamedTuple):
    """A repository of a model, a revision of it, and a file or folder in it."""

    repo: str
    """`org/model`."""
    revision: str
    """A branch, a tag, `refs/pr/1`, or a commit."""
    name: str
    """Path in the repository; "" for all of it. A folder's path has a final slash."""

    @classmethod
    def of(cls, url: str) -> "HubLocation":
        """Parse any of the forms. The name is used as written.

        Raises:
            ArgumentError: not a URL of this form.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise ArgumentError("not a URL of a model on the Hugging Face Hub", where=url, remedy=f"write {_FORM}")
        repo, revision, name = match.groups()
        if repo.partition("/")[0] in _OTHER_KINDS:
            raise ArgumentError("only models are read from the Hugging Face Hub", where=url, remedy=f"write {_FORM}")
        return cls(repo, unquote(revision or "main"), name or "")

    @classmethod
    def of_file(cls, url: str) -> "HubLocation":
        """Parse hf://org/model[@revision]/file.

        Raises:
            ArgumentError: not a URL of this form.
            IsDirectoryError: the URL names a repository, or ends in a slash.
        """
        location = cls.of(url)
        if not location.name or location.name.endswith("/"):
            raise IsDirectoryError(
                "a repository or a folder, not a file",
                where=url,
                remedy="name one file; list_safetensors lists them",
                sep=": ",
            )
        return location

    @classmethod
    def of_folder(cls, url: str) -> "HubLocation":
        """Parse hf://org/model[@revision] or hf://org/model[@revision]/folder.

        Raises:
            ArgumentError: not a URL of this form.
        """
        location = cls.of(url)
        folder = location.name.rstrip("/")
        return location._replace(name=f"{folder}/" if folder else "")

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return _COMMIT.fullmatch(self.revision) is not None

    def url_at(self, commit: str, name: str) -> str:
        """Return the hf:// URL of a file of the repository at a commit."""
        return f"hf://{self.repo}@{commit}/{name}"

    def web_url(self, endpoint: str, commit: str) -> str:
        """Return the URL at which the Hub has the file."""
        return f"{endpoint}/{self.repo}/resolve/{commit}/{quote(self.name)}"
