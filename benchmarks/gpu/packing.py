"""Makes what `pack.sh` cannot fetch: problems as files, so that no generator is needed, and wheels without dead weight.

python -m benchmarks.gpu.packing FOLDER
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.machine import revision

MOST_BYTES = 60 << 20
"""What the folder may weigh: it travels with the checkout, where 64 MiB may be all that is let through."""
BASE_PROBLEMS = 8000
"""Problems for the starter's first training: minutes of it on a GPU, a fraction of what the recipe asks for."""
CUDA = ("cuda130", "cuda132")
"""Of bitsandbytes' libraries, one for each CUDA, those that are kept besides the CPU's: the ones for torch 2.11's."""


def main(folder: Path) -> None:
    """Fill the folder and tell what it weighs; exit with 1 when it is too heavy."""
    write_problems(folder)
    for wheel in folder.glob("wheels/bitsandbytes-*.whl"):
        trim_wheel(wheel, is_other_cuda)
    copy_shared(Path(__file__).resolve().parents[3] / "shared", folder)
    (folder / "revision").write_text(revision() + "\n", encoding="utf-8")
    size = weight(folder)
    print(f"{folder}: {size / (1 << 20):.1f} MiB of at most {MOST_BYTES >> 20}")
    if size > MOST_BYTES:
        sys.exit(f"error: {folder} weighs more than {MOST_BYTES >> 20} MiB; take something out of carried.txt")


def write_problems(folder: Path) -> None:
    """Write the demo's own problems, held-out ones too, and some of the starter's training ones."""
    from mathgrpo.config import load_recipe
    from mathgrpo.problems import ProblemSets, load_problem_sets
    from mathgrpo.problems.generated import generate_problem_sets

    sets: dict[str, ProblemSets] = {
        "problems": load_problem_sets(load_recipe("demo", []).problems),
        "base": generate_problem_sets(BASE_PROBLEMS, 100, seed=17, max_value=999),
    }
    for name, problems in sets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for stem, rows in (("train", problems.train), ("test", problems.heldout)):
            lines = [json.dumps({"question": p.question, "answer": p.answer, "solution": p.solution}) for p in rows]
            (folder / name / f"{stem}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def copy_shared(shared: Path, folder: Path) -> None:
    """Copy GSM8K and the Qwen2.5 tokenizer, where they lie beside the checkout; say what does not."""
    for source, name in ((shared / "data" / "gsm8k", "gsm8k"), (shared / "tokenizers" / "Qwen2.5", "tokenizer")):
        if source.is_dir():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for file in source.iterdir():
                shutil.copyfile(file, folder / name / file.name)  # without its rights: a copy must be removable
        else:
            print(f"not packed: {name}, which is not beside this checkout; the cases that need it are skipped")


def trim_wheel(path: Path, is_dead: Callable[[str], bool]) -> None:
    """Take files out of a wheel, and out of its list of files (PEP 427's RECORD), which is written anew."""
    with zipfile.ZipFile(path) as wheel:
        kept = {info.filename: wheel.read(info) for info in wheel.infolist() if not is_dead(info.filename)}
    record = next(name for name in kept if name.endswith(".dist-info/RECORD"))
    rows = [row for row in csv.reader(io.StringIO(kept[record].decode())) if row and row[0] in kept]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(_row(row[0], kept, record) for row in rows)
    kept[record] = written.getvalue().encode()
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in kept.items():
            wheel.writestr(name, content)
    part.replace(path)


def is_other_cuda(name: str) -> bool:
    """Return whether a file is bitsandbytes' library for a device that is not meant."""
    return name.endswith(".so") and not any(kept in name for kept in (*CUDA, "_cpu"))


def weight(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _row(name: str, files: dict[str, bytes], record: str) -> Iterable[str]:
    if name == record:
        return (name, "", "")
    digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
    return (name, f"sha256={digest}", str(len(files[name])))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
