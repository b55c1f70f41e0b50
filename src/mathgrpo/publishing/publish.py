"""From a run to a hub repository: staged and shown whole, then uploaded file by file as shown, private by default."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathgrpo.errors import UserError, first_line
from mathgrpo.hub import is_reachable
from mathgrpo.publishing.card import chosen_license, draw_curves, run_card
from mathgrpo.publishing.export import Export, Kind, export_run
from mathgrpo.publishing.export_files import require_allowed
from mathgrpo.publishing.source import find_source
from mathgrpo.report.read_run import load_run

SECRETS = re.compile(r"hf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----")
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
READABLE = (".json", ".md", ".jinja", ".txt")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")


@dataclass(frozen=True, slots=True)
class Staged:
    """What would go up.

    Attributes:
        export: the model that was exported to be published, with its checks; the card and the curves lie beside it.
        notes: what whoever publishes should know first.
    """

    repo: str
    card: str
    export: Export
    notes: tuple[str, ...]


def stage(
    run: str, repo: str, folder: Path, *, kind: Kind = "merged", dtype: str = "auto", check: int, license_id: str = "",
    device: str = "auto", say: Callable[[str], None] = lambda line: None,
) -> Staged:  # fmt: skip
    """Put exactly what is to go up into a folder: the checked export, the card, the curves. Needs no network.

    Raises: UserError for a wrong name, no run, a broken export, or a file that must not leave this machine.
    """
    from transformers import AutoTokenizer

    require_name(repo)
    source = find_source(run)
    if source.run is None:
        raise UserError(f"{run}: belongs to no run, and the card is made from one; give a run folder or a checkpoint")
    if kind == "adapter" and source.base is not None and Path(source.base).exists():
        raise UserError(
            "--format adapter: its base model is a folder on this machine, which nobody else has; publish the merged "
            "model: --format merged"
        )
    data = load_run(source.run)
    export = export_run(run, folder, kind=kind, dtype=dtype, check=check, device=device, say=say)
    has_curves = draw_curves(data, folder / "curves.png")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    card = run_card(source, data, repo, license_id, tokenizer=tokenizer, has_curves=has_curves, kind=kind)
    (folder / "README.md").write_text(card, encoding="utf-8")
    require_no_secret(require_allowed(folder))
    notes = []
    if not chosen_license(source, license_id):
        notes.append("the card names no licence; say which with --license, such as --license apache-2.0")
    if source.info.get("status") not in (None, "finished"):
        notes.append(f"the run is not finished ({source.info['status']}); this is its step {source.step}")
    return Staged(repo, card, export, tuple(notes))


def staged_lines(staged: Staged, *, private: bool) -> list[str]:
    """Return what would go up, for a reader: every file with its size, then the card."""
    sizes = {path.name: path.stat().st_size for path in require_allowed(staged.export.folder)}
    return [
        f"repository  {staged.repo} ({'private' if private else 'public'})",
        *(f"  {size:>14,} bytes  {name}" for name, size in sizes.items()),
        f"  {sum(sizes.values()):>14,} bytes  in {len(sizes)} files",
        *(f"note        {note}" for note in staged.notes),
        "",
        staged.card,
    ]


def require_login() -> None:
    """Return when the hub answers and knows who is asking.

    Raises: UserError otherwise, before anything is exported.
    """
    import huggingface_hub

    if not is_reachable():
        raise UserError(
            "publish: the model hub does not answer; see what would go up with --dry-run, or keep it with: "
            "mathgrpo export RUN --format zip"
        )
    if huggingface_hub.get_token() is None:
        raise UserError("publish: nobody is logged in to the model hub; run: hf auth login")


def upload(staged: Staged, *, private: bool) -> str:
    """Upload the staged files and return the repository's address.

    Raises: UserError when the hub refuses, a file is no export's, or the repository is public against the wish.
    """
    message = f"{staged.export.record['name']}, step {staged.export.record['step']}"
    files = require_allowed(staged.export.folder)
    return upload_files(files, staged.repo, message, caller="publish", private=private, public="--public")


def upload_files(
    files: Sequence[Path], repo: str, message: str, *, caller: str, private: bool | None, public: str,
    token: str | None = None, **options: Any,
) -> str:  # fmt: skip
    """Upload files of one folder, and nothing else of it, in one commit; return the commit's address.

    caller, public: how errors name the caller, and what the caller says to let all see it. token: for the hub in place
    of its library's own login; it is neither kept nor shown. options: further ones of the hub library's upload_folder.
    Raises: UserError when the hub refuses, a file holds a secret, or the repository is public and should be private.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    require_no_secret(files)
    api: Any = huggingface_hub.HfApi(token=token) if token else huggingface_hub.HfApi()
    try:
        repository = str(api.create_repo(repo, private=private, exist_ok=True).repo_id)
        if private and not api.repo_info(repository).private:
            raise UserError(
                f"{caller}: {repository} exists already and is public; give {public} if it may be seen by all, "
                "or another name"
            )
        commit = api.upload_folder(
            repo_id=repository, folder_path=files[0].parent, allow_patterns=[path.name for path in files],
            commit_message=message, **options,
        )  # fmt: skip
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = without_secrets(first_line(error))
        raise UserError(f"{caller}: {repo} was refused ({reason}); check the name, then: hf auth login") from None
    return without_secrets(str(commit.commit_url))


def require_no_secret(files: Sequence[Path]) -> None:
    """Return when no file holds what looks like a token or a key.

    Raises: UserError that names the file, never what is in it.
    """
    for path in files:
        if path.suffix in READABLE and path.name not in VOCABULARIES:
            text = path.read_text(encoding="utf-8", errors="replace")
            if without_secrets(text) != text:
                raise UserError(
                    f"publish: {path.name} holds what looks like a token or a key; take it out of the recipe or the "
                    "run's notes; nothing was uploaded"
                )


def without_secrets(text: str) -> str:
    """Return a text with whatever looks like a token or a key blotted out."""
    for secret in (os.environ.get(name, "") for name in SECRET_VARIABLES):
        text = text.replace(secret, "***") if len(secret) >= 8 else text
    return SECRETS.sub("***", text)


def require_name(repo: str) -> None:
    """Return when a repository can be called so.

    Raises: UserError otherwise.
    """
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    checks: Any = utils
    try:
        checks.validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"REPO={repo}: no repository name ({first_line(error)}); give NAME or OWNER/NAME") from error
