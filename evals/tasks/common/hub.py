"""Files of data sets on the hub, at one revision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evals.errors import UserError
from evals.hashing import digest_of_file
from evals.hub import local_only


class NotHereError(UserError):
    """A file is not on this machine, and could not be fetched: with a hub to ask it might be."""


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub at one revision; files is a pattern of the files to fetch."""

    repo: str
    files: str
    revision: str


def fetch(repo: str, filename: str, revision: str, offline: bool, sha256: str | None = None) -> Path:
    """A file of a data set, from the cache where it is there.

    sha256: of the file, if known. Raises NotHereError where the file cannot be had, UserError where it is another.
    """
    path = _download(repo, filename, revision, offline)
    if path is None:
        closed = "--offline forbids a download" if offline else "the hub does not answer"
        why = f"is not in the hub's cache, and {closed}" if local_only(offline) else "cannot be downloaded"
        raise NotHereError(
            f"{filename} of the data set {repo} {why}: get it from https://huggingface.co/datasets/{repo} "
            f"(revision {revision[:12]}) and give its folder as --data-dir."
        )
    if sha256 is not None and (found := digest_of_file(path)) != sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]}, not {sha256[:12]} as published: delete it and download it again."
        )
    return path


def not_in(folder: Path, what: str, files: str, repo: str) -> UserError:
    """Of published data that the user's folder lacks. what: with its verb. files: of the data set on the hub."""
    return UserError(f"{what} not in {folder}: put {files} of https://huggingface.co/datasets/{repo} there.")


def fetch_folder(hub: HubSet, offline: bool) -> Path:
    """The folder with a data set's files. Raises NotHereError where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            hub.repo,
            repo_type="dataset",
            revision=hub.revision,
            allow_patterns=hub.files,
            local_files_only=local_only(offline),
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise NotHereError(
            f"The data set {hub.repo} is not on this machine and cannot be fetched: run `hf download --repo-type "
            f"dataset {hub.repo} --revision {hub.revision}` where the hub is reached, or give --data-dir."
        ) from error
    return Path(folder)


@cache
def _download(repo: str, filename: str, revision: str, offline: bool) -> Path | None:
    """None where it fails. Remembered, since every data set of a benchmark asks, and each failure takes long."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = hf_hub_download(
            repo, filename, repo_type="dataset", revision=revision, local_files_only=local_only(offline)
        )
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return None
    return Path(found)
